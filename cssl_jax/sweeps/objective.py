"""What chooses a sweep's trials: one figure, on the images that select, reported to Optuna."""

import math
import pathlib
from typing import Any

from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders
from cssl_jax.methods.registry import method_entry
from cssl_jax.report.run_reader import open_run
from cssl_jax.sweeps.space import Space

# Figure of an online evaluation -> in words: those by which ``retention.BEST`` ranks, so that a
# trial's score is that of its best checkpoint.
METRICS = {
    "knn.selection_top1": "kNN top-1",
    "selection_view_retrieval": "view retrieval",
    "classifier.selection_top1": "classifier top-1",
}


def metric(config: Config, space: Space) -> str:
    """Which figure of ``METRICS`` selects, once the data are known to be there.

    Raises:
        UserError: The data cannot be read, or the space would change what the figure measures.
    """
    parts = builders.load_data(config)
    if method_entry(config.method.name).evaluation == "classifier":
        return "classifier.selection_top1"
    if all(part.labels is not None and part.labels.max() >= 0 for part in parts):
        return "knn.selection_top1"
    if changed := [name for name in space.fields if name.startswith(("augment.", "data.size"))]:
        raise UserError(
            f"space {space.path} sets {', '.join(changed)}, but the images have no labels: trials "
            "are then ranked by how well two views find each other, which easier views do "
            "better; leave it out of the space, or give labels (data.labels)"
        )
    return "selection_view_retrieval"


def reported(best: dict[str, Any]) -> dict[str, float]:
    """Shares in [0, 1], in words, of a best checkpoint on the images that chose nothing."""
    found = {
        f"{title} top-1": best[name]["top1"]
        for name, title in (("knn", "kNN"), ("linear", "linear"), ("classifier", "classifier"))
        if name in best
    }
    return found or ({"view retrieval": best["view_retrieval"]} if "view_retrieval" in best else {})


class Watch:
    """Reports a run's evaluations to Optuna, and asks it whether to go on.

    Attributes:
        scores: Epoch to share in [0, 1], of all that were reported.
    """

    def __init__(self, trial: Any, metric: str, epochs: int) -> None:
        self._trial, self._metric, self._epochs = trial, metric, epochs
        frozen = trial.storage.get_trial(trial._trial_id)
        self.scores: dict[int, float] = dict(frozen.intermediate_values)

    def __call__(self, epoch: int, figures: dict[str, float]) -> str:
        """Reports an evaluation; why the trial is to end there, or "" where it goes on."""
        self._report(epoch, figures)
        if epoch >= self._epochs or epoch not in self.scores or not self._trial.should_prune():
            return ""
        best = max(self.scores.values())
        return (
            f"at epoch {epoch}, {100 * best:.1f} % at best: below the median of earlier trials "
            "there"
        )

    def replay(self, place: pathlib.Path) -> str:
        """Reports what is written down; the verdict on the last of it, "" before any."""
        if not (place / "config.json").is_file():
            return ""
        lines = open_run(place).online
        reason = ""
        for line in lines:
            reason = self(round(line["epoch"]), line) if line is lines[-1] else ""
            self._report(round(line["epoch"]), line)
        return reason

    def _report(self, epoch: int, figures: dict[str, float]) -> None:
        score = figures.get(self._metric)
        if score is not None and math.isfinite(score) and epoch not in self.scores:
            self._trial.report(score, epoch)
            self.scores[epoch] = score
