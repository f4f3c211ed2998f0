"""Hyperparameter sweeps over one recipe, ranked by the metric that ranks checkpoints; Optuna."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.sweeps.sweep_report import write_report
    from cssl_jax.sweeps.sweep_results import Axis, Sweep, Trial, is_sweep
    from cssl_jax.sweeps.sweep_results import read as read_sweep

__all__ = [
    "Axis",
    "Sweep",
    "Trial",
    "is_sweep",
    "read_sweep",
    "write_report",
]
__getattr__, __dir__ = public_names(__name__)
