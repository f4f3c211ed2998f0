"""Which checkpoints of a run are kept, and which of them is the best."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orbax.checkpoint as ocp

# What "best" is judged by: with labels, without; then what earlier versions wrote.
BEST = (
    *("knn.selection_top1", "selection_view_retrieval", "classifier.selection_top1"),
    *("knn.top1", "view_retrieval"),
)


def options(
    keep: int, regular: Callable[[int], bool], read_only: bool
) -> ocp.CheckpointManagerOptions:
    """Orbax's, to keep the newest ``keep``, the best, and the newest whose step is regular."""
    policies = ocp.checkpoint_managers
    best = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
    # Retention by max_to_keep with best_fn deletes the newest checkpoint; a policy without
    # best_fn writes no metrics. Both together keep what is meant.
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
    """Whether an evaluation's figures place a checkpoint among the others."""
    return any(name in metrics for name in BEST)


def _score(metrics: Mapping[str, float]) -> float:
    return next((metrics[name] for name in BEST if name in metrics), -math.inf)


class _NewestRegular:
    """Preserves the newest checkpoint whose step is regular: what a rollback goes back to."""

    def __init__(self, regular: Callable[[int], bool]) -> None:
        self._regular = regular

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        newest = max((c.step for c in checkpoints if self._regular(c.step)), default=None)
        return [c.step == newest for c in checkpoints]
