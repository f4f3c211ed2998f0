"""The objective of a sweep: one metric on the selection images, reported to Optuna per epoch."""

import math
import pathlib
from typing import Any

from cssl_jax.config import Config
from cssl_jax.errors import StoppedRunError, UserError
from cssl_jax.evaluate.scores import Scores
from cssl_jax.experiment import data_splits
from cssl_jax.methods.registry import method_entry
from cssl_jax.report.run_reader import open_run
from cssl_jax.sweeps.space import Space
from cssl_jax.train.hooks import Hook, Run

# Metric name in an online evaluation -> title for people. Checkpoints are ranked by the same
# metrics (``checkpoint.checkpoint_policy.RANKING_METRICS``), so that a trial's score is that of its
# best checkpoint.
METRICS = {
    "knn.selection_top1": "kNN top-1",
    "selection_view_retrieval": "view retrieval",
    "classifier.selection_top1": "classifier top-1",
}


def metric(config: Config, space: Space) -> str:
    """Returns the name in ``METRICS`` that selects trials; opens the data to see their labels.

    Raises:
        UserError: The data cannot be read, or the space would change what the metric measures.
    """
    splits = data_splits.load_data(config)
    if method_entry(config.method.name).evaluation == "classifier":
        return "classifier.selection_top1"
    if all(split.labels is not None and split.labels.max() >= 0 for split in splits):
        return "knn.selection_top1"
    # Weaker augmentation makes two views of an example easier to match, without better features.
    if changed := [name for name in space.fields if name.startswith(("augment.", "data.size"))]:
        raise UserError(
            f"space {space.path} sets {', '.join(changed)}, but the examples have no labels: "
            "trials are then ranked by view retrieval, which easier views raise by themselves; "
            "remove the field from the space, or provide labels (data.labels)"
        )
    return "selection_view_retrieval"


def reported_metrics(best: Scores | None) -> dict[str, float]:
    """Metrics of a best checkpoint on the reporting images, which take no part in selection.

    Args:
        best: Metrics of the best checkpoint; None if it was not reported.

    Returns:
        Title of each metric to its value in [0, 1]. Empty where no such metric was evaluated.
    """
    if best is None:
        return {}
    titles = {"knn": "kNN", "linear": "linear", "classifier": "classifier"}
    accuracies = {
        f"{title} top-1": best.accuracies[name].top1
        for name, title in titles.items()
        if name in best.accuracies
    }
    found = accuracies or {"view retrieval": best.view_retrieval}
    return {name: value for name, value in found.items() if value is not None}


class PruningCallback(Hook):
    """Hook of a run that reports its online evaluations to Optuna and may prune the trial.

    Attributes:
        scores: Epoch to score in [0, 1], for every evaluation that Optuna has received.
    """

    def __init__(self, trial: Any, metric: str, epochs: int) -> None:
        """Starts from the scores that Optuna already stores for the trial.

        Args:
            trial: The Optuna trial.
            metric: Name in ``METRICS``.
            epochs: Number of epochs of the run; the trial is not pruned at its last one.
        """
        self._trial, self._metric, self._epochs = trial, metric, epochs
        frozen = trial.storage.get_trial(trial._trial_id)  # noqa: SLF001 - Optuna has no public name
        self.scores: dict[int, float] = dict(frozen.intermediate_values)

    def after_save(self, run: Run, scores: dict[str, float]) -> None:
        """Reports an online evaluation, except the last one.

        Raises:
            StoppedRunError: The trial is pruned.
        """
        if not scores or run.step == run.total_steps:
            return
        if reason := self._judge(int(run.epoch), scores):
            raise StoppedRunError(reason)

    def _judge(self, epoch: int, metrics: dict[str, float]) -> str:
        """Reports one evaluation. Returns the reason for pruning, or "" to continue the run."""
        self._report(epoch, metrics)
        if epoch >= self._epochs or epoch not in self.scores or not self._trial.should_prune():
            return ""
        best = max(self.scores.values())
        return (
            f"at epoch {epoch}: the best score, {100 * best:.1f} %, is below the median of earlier "
            "trials at this epoch"
        )

    def replay(self, run: pathlib.Path) -> str:
        """Reports the evaluations that a run folder has logged.

        Returns:
            The reason for pruning after the last evaluation; "" to continue, or without any.
        """
        if not (run / "config.json").is_file():
            return ""
        evaluations = open_run(run).online
        reason = ""
        for line in evaluations:
            # Earlier evaluations were decided when they were made: the run continued after them.
            reason = self._judge(round(line["epoch"]), line) if line is evaluations[-1] else ""
            self._report(round(line["epoch"]), line)
        return reason

    def _report(self, epoch: int, metrics: dict[str, float]) -> None:
        score = metrics.get(self._metric)
        # Optuna warns on a second report of an epoch, which a resumed run may produce.
        if score is not None and math.isfinite(score) and epoch not in self.scores:
            self._trial.report(score, epoch)
            self.scores[epoch] = score
