"""Learning-rate schedules, and other values that change over a run.

All of them are functions of the step, which also counts skipped steps: they survive skips,
rollbacks and restarts. A method evaluates its schedules (momentum of a copy, temperatures) at
``ctx.step``.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from cssl_jax.errors import UserError

T = TypeVar("T")


def scaled_learning_rate(base: float, batch_size: int, rule: str) -> float:
    """Return the peak learning rate for a global batch of ``batch_size`` examples.

    Args:
      base: Learning rate of the recipe. SimCLR uses 0.3 with "linear" and 0.075 with "sqrt". Both
        give 4.8 at N = 4096. "sqrt" is better with small batches and few epochs (Appendix B.1).
      batch_size: Global batch size N in examples (not views, not examples per device).
      rule: Scaling rule: "none" (base), "linear" (base N / 256; Goyal et al. 2017, section 2.1) or
        "sqrt" (base sqrt(N)).

    Returns:
      Peak learning rate.

    Raises:
      UserError: The rule is unknown.

    Example:
        >>> scaled_learning_rate(0.3, 4096, "linear")  # 0.3 x 4096 / 256
        4.8
    """
    rates = {"none": base, "linear": base * batch_size / 256, "sqrt": base * math.sqrt(batch_size)}
    return _choose("learning-rate scaling rule", rates, rule)


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, end: float = 0.0
) -> optax.Schedule:
    """Return a linear warm-up from 0 to ``peak``, then half a cosine down to ``end``.

    Step 0 gives 0 unless ``warmup_steps`` is 0. Step ``warmup_steps`` gives ``peak``. Step
    ``total_steps`` and later steps give ``end``. This is SimCLR's schedule (section 2.3), with the
    corner values of its TensorFlow code. If the warm-up lasts the whole run, ``end`` is reached one
    step after ``peak``.

    Args:
      peak: Learning rate at the end of the warm-up.
      warmup_steps: Length of the warm-up in steps; 0: no warm-up.
      total_steps: Length of the run in steps, warm-up included.
      end: Final learning rate.

    Returns:
      Function from the step to the learning rate, a scalar of JAX's default float type (float64
      under x64).

    Raises:
      UserError: The run has no steps, or the warm-up is negative or longer than the run.

    Example:
        >>> rate = warmup_cosine(1.0, warmup_steps=10, total_steps=30)
        >>> [round(float(rate(step)), 2) for step in (5, 10, 20, 30)]
        [0.5, 1.0, 0.5, 0.0]
    """
    unit = optax.cosine_decay_schedule(1.0, max(total_steps - warmup_steps, 1))
    return _with_warmup(
        peak, warmup_steps, total_steps, lambda step: end + (peak - end) * unit(step)
    )


def make_schedule(name: str, peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Return the schedule called ``name``: "cosine" or "constant", each after a linear warm-up.

    The arguments ``peak``, ``warmup_steps`` and ``total_steps`` are those of ``warmup_cosine``.

    Raises:
      UserError: The name is unknown, or ``warmup_cosine`` rejects the numbers of steps.

    Example:
        >>> rate = make_schedule("constant", 0.1, warmup_steps=0, total_steps=30)
        >>> round(float(rate(20)), 4)
        0.1
    """
    builders: dict[str, Callable[[], optax.Schedule]] = {
        "cosine": lambda: warmup_cosine(peak, warmup_steps, total_steps),
        "constant": lambda: _with_warmup(
            peak, warmup_steps, total_steps, optax.constant_schedule(peak)
        ),
    }
    return _choose("learning-rate schedule", builders, name)()


def cosine_between(start: float, end: float, total_steps: int) -> optax.Schedule:
    """Returns a schedule from ``start`` at step 0 to ``end`` at ``total_steps``, half a cosine.

    start + (end - start) (1 - cos(pi t / T)) / 2, as for the weight decay and the momentum of DINO
    (arXiv 2104.14294, sec. 3.2) and the momentum of BYOL (arXiv 2006.07733, sec. 3.3).

    Args:
        start: Value at step 0.
        end: Value at ``total_steps`` and later.
        total_steps: Number of steps T.

    >>> [round(float(cosine_between(0.04, 0.4, 10)(step)), 3) for step in (0, 5, 10)]
    [0.04, 0.22, 0.4]
    """

    def schedule(step: Any) -> Any:
        progress = jnp.clip(jnp.asarray(step, jnp.result_type(float)) / total_steps, 0, 1)
        return start + (end - start) * (1 - jnp.cos(jnp.pi * progress)) / 2

    return schedule


def _choose(kind: str, table: Mapping[str, T], name: str) -> T:
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}; choose one of: {', '.join(sorted(table))}")
    return table[name]


def _with_warmup(
    peak: float, warmup_steps: int, total_steps: int, after: optax.Schedule
) -> optax.Schedule:
    """Return a linear warm-up from 0 to ``peak``, then ``after``, which counts steps from 0."""
    if total_steps < 1:
        raise UserError(
            f"a run of {total_steps} steps has no schedule; train for at least one step"
        )
    if warmup_steps < 0:
        raise UserError(f"the warm-up has {warmup_steps} steps; use 0 for no warm-up")
    if warmup_steps > total_steps:
        raise UserError(
            f"the warm-up of {warmup_steps} steps is longer than the run of {total_steps}; "
            "use fewer warm-up epochs or more training epochs"
        )
    schedule = after
    if warmup_steps:
        rise = optax.linear_schedule(0.0, peak, warmup_steps)
        schedule = optax.join_schedules([rise, after], [warmup_steps])

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        # An int32 count would make the rate float32 even under x64.
        dtype = jnp.result_type(float)
        return jnp.asarray(schedule(jnp.asarray(step, dtype)), dtype)

    return rate
