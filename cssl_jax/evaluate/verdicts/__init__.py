"""Verdicts: rules that turn the metrics of a run into warnings, one threshold and sentence each.

All functions are pure: they take metrics and return verdicts. The training log prints a verdict at
the first step at which it holds. The report repeats the verdicts that hold at the end of the run.
Metrics have the names of ``metrics.jsonl``. A rule whose metric is missing is skipped, so that it
does not apply to methods without that metric (no softmax, no labels).
"""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.evaluate.verdicts.base import (
        Facts,
        Verdict,
        facts,
    )
    from cssl_jax.evaluate.verdicts.feature_health import (
        DEAD_FRACTION,
        ERRORS,
        MIN_RANK,
        POINT,
        RANK_FRACTION,
        TOO_HARD,
        check_features,
    )
    from cssl_jax.evaluate.verdicts.training_steps import (
        AT_CHANCE,
        DECAY_FRACTION,
        LARGEST_STEP,
        LINES,
        TOO_EASY,
        check_steps,
        minimum_loss,
    )
    from cssl_jax.evaluate.verdicts.whole_run import (
        INPUT_WAIT,
        PAST_BEST,
        check_input,
        check_online,
        check_results,
        check_timings,
    )

__all__ = [
    "AT_CHANCE",
    "DEAD_FRACTION",
    "DECAY_FRACTION",
    "ERRORS",
    "INPUT_WAIT",
    "LARGEST_STEP",
    "LINES",
    "MIN_RANK",
    "PAST_BEST",
    "POINT",
    "RANK_FRACTION",
    "TOO_EASY",
    "TOO_HARD",
    "Facts",
    "Verdict",
    "check_features",
    "check_input",
    "check_online",
    "check_results",
    "check_steps",
    "check_timings",
    "facts",
    "minimum_loss",
]
__getattr__, __dir__ = public_names(__name__)
