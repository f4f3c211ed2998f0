"""Verdicts: rules that turn the metrics of a run into warnings, one threshold and sentence each.

All functions are pure: they take metrics and return verdicts. The training log prints a verdict at
the first step at which it holds. The report repeats the verdicts that hold at the end of the run.
Metrics have the names of ``metrics.jsonl``. A rule whose metric is missing is skipped, so that it
does not apply to methods without that metric (no softmax, no labels).
"""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.evaluate.verdicts.base import Facts, Verdict, facts
    from cssl_jax.evaluate.verdicts.feature_health import check_features
    from cssl_jax.evaluate.verdicts.training_steps import LINES, check_steps, minimum_loss
    from cssl_jax.evaluate.verdicts.whole_run import (
        INPUT_WAIT,
        check_input,
        check_online,
        check_results,
        check_timings,
    )

__all__ = [
    "INPUT_WAIT",
    "LINES",
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
