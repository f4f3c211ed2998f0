"""Judges a classifier during its training and after it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.accuracy import classification, top1_top5
from cssl_jax.evaluate.evaluator import Checkpoint, halves, labelled_part
from cssl_jax.evaluate.features import Model, make_embed
from cssl_jax.methods.classifier import Classifier

Logits = Callable[[Source], np.ndarray]  # source of N images -> float32 [N, C]
NAME = "classifier"


class ClassifierEvaluator:
    """Accuracy of a classifier on the labelled validation images; the interface of ``Evaluator``.

    A keyed half of them ranks checkpoints; the other half reports on the one that came out best.
    """

    labelled = True

    def __init__(
        self, config: Config, method: Classifier, spec: InputSpec, validation: Source, mesh: Mesh
    ) -> None:
        self._validation = labelled_part(validation)
        assert self._validation.labels is not None
        self._labels = self._validation.labels
        self._selection, self._reporting = halves(validation, config.train.seed)
        self._num_classes = method.num_classes
        self._embed = make_embed(
            _Logits(method),
            mesh,
            size=spec.size,
            mean=spec.mean,
            std=spec.std,
            batch_size=config.evaluate.batch_size,
        )

    def features(self, model: Model) -> Logits:
        """A model as a function from a source to logits."""
        return lambda source: self._embed(model, source)

    def judge(
        self,
        features: Logits,
        names: tuple[str, ...] = (),
        *,
        full: bool = False,
        rows: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """{"classifier": {"top1", "top5", "selection_top1", "per_class", "confusion"}}.

        Args:
            features: From ``features``.
            names: Unused: there is one protocol.
            full: Unused: it is as cheap during the run.
            rows: int [r], of the validation part to report on; None is all.
        """
        scores = features(self._validation)
        chosen = np.arange(len(scores)) if rows is None else rows
        figures: dict[str, Any] = top1_top5(scores[chosen], self._labels[chosen])
        figures |= classification(scores[chosen], self._labels[chosen])
        if rows is None and len(self._selection):
            ranked = self._selection
            figures["selection_top1"] = top1_top5(scores[ranked], self._labels[ranked])["top1"]
        return {NAME: figures}

    @staticmethod
    def flat(figures: dict[str, Any]) -> dict[str, float]:
        """Figures of ``judge`` by dotted names."""
        shown = ("top1", "top5", "selection_top1")
        return {f"{NAME}.{key}": figures[NAME][key] for key in shown if key in figures[NAME]}

    def report(
        self,
        last: Checkpoint,
        best: Checkpoint | None,
        untrained: Callable[[Source], Model],
        names: tuple[str, ...] = (),
        *,
        figures: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The last checkpoint on all validation images, the best on those that did not rank it."""
        figures = figures or self.judge(self.features(last.model))
        results = {"step": last.step, "num_classes": self._num_classes, **figures}
        words = f"last checkpoint: step {last.step}, chosen by nothing, reported on all "
        words += f"{len(self._labels):,} validation images"
        if best is not None and len(self._reporting):
            judged = self.judge(self.features(best.model), rows=self._reporting)
            results["best"] = {"step": best.step, "images": len(self._reporting), **judged}
            words += (
                f"\nbest checkpoint: step {best.step}, chosen by top-1 on "
                f"{len(self._selection):,} of them; reported on the other "
                f"{len(self._reporting):,}"
            )
        results["selection"] = {"by": "top-1", "images": len(self._selection), "words": words}
        return results


class _Logits:
    """A classifier as ``make_embed`` takes an encoder."""

    def __init__(self, method: Classifier) -> None:
        self._method = method

    def apply(self, variables: Model, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        return {"features": self._method.logits(variables, images)}
