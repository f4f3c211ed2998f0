"""Estimates the cost of a training step before it runs: memory, FLOPs, bytes between devices."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.planning.format import plan_text
    from cssl_jax.planning.plan import Plan
    from cssl_jax.planning.scaling import Hardware, ScalingPlan, plan_scaling
    from cssl_jax.planning.targets.target_plan import TargetPlan, plan_target
    from cssl_jax.planning.targets.target_text import report as target_plan_text

__all__ = [
    "Hardware",
    "Plan",
    "ScalingPlan",
    "TargetPlan",
    "plan_scaling",
    "plan_target",
    "plan_text",
    "target_plan_text",
]
__getattr__, __dir__ = public_names(__name__)
