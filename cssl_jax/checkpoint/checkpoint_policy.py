"""Preservation policy of checkpoints, and the ranking that determines the best one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orbax.checkpoint as ocp

# Metrics that rank checkpoints, in order of precedence: with labels, without labels, classifiers,
# and the names that earlier versions wrote.
RANKING_METRICS = (
    *("knn.selection_top1", "selection_view_retrieval", "classifier.selection_top1"),
    *("knn.top1", "view_retrieval"),
)


def options(
    keep: int, regular: Callable[[int], bool], read_only: bool
) -> ocp.CheckpointManagerOptions:
    """Options of Orbax that preserve the newest ``keep`` checkpoints, the best and a regular one.

    Args:
        keep: Number of newest checkpoints to preserve.
        regular: Predicate of a step; the newest checkpoint for which it holds is preserved.
        read_only: True to open the folder without changing it.
    """
    policies = ocp.checkpoint_managers
    best = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
    # max_to_keep with best_fn would delete the newest checkpoint, and a policy without best_fn
    # writes no metrics. A policy together with best_fn preserves the intended checkpoints.
    return ocp.CheckpointManagerOptions(
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        best_fn=_score,
        best_mode="max",
        preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(keep), _NewestRegular(regular), best]
        ),
    )


def is_ranked(metrics: Mapping[str, float]) -> bool:
    """True if the metrics of an evaluation contain one that ranks checkpoints."""
    return any(name in metrics for name in RANKING_METRICS)


def _score(metrics: Mapping[str, float]) -> float:
    return next((metrics[name] for name in RANKING_METRICS if name in metrics), -math.inf)


class _NewestRegular:
    """Preserves the newest checkpoint of a regular step, to which a rollback returns."""

    def __init__(self, regular: Callable[[int], bool]) -> None:
        self._regular = regular

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        newest = max((c.step for c in checkpoints if self._regular(c.step)), default=None)
        return [c.step == newest for c in checkpoints]
