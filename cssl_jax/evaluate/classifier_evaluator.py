"""Evaluates a classifier during and after its training."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.accuracy import classification, top1_top5
from cssl_jax.evaluate.encoders.features import Model, make_embed
from cssl_jax.evaluate.evaluator import Checkpoint
from cssl_jax.evaluate.ranking_split import labelled_examples, split_ranking_reporting
from cssl_jax.evaluate.results import Results, Selection
from cssl_jax.evaluate.scores import BestScores, Scores
from cssl_jax.methods.supervised.classifier import Classifier

Logits = Callable[[Source], np.ndarray]  # source of N images -> float32 [N, C]
NAME = "classifier"


class ClassifierEvaluator:
    """Accuracy of a classifier on the labelled validation images; the interface of ``Evaluator``.

    A seeded half of these images ranks checkpoints. The best checkpoint is reported on the other
    half.

    Attributes:
        labelled: Whether the data have labels; always True.
    """

    labelled = True

    def __init__(
        self, config: Config, method: Classifier, spec: InputSpec, validation: Source, mesh: Mesh
    ) -> None:
        """Prepares the labelled validation images and the compiled classifier.

        Args:
            config: Config of the run.
            method: Classifier to evaluate.
            spec: Size and normalisation of the encoder's input.
            validation: Validation images, of which some have labels.
            mesh: Devices that batches are sharded over.
        """
        self._validation = labelled_examples(validation)
        assert self._validation.labels is not None
        self._labels = self._validation.labels
        self._selection, self._reporting = split_ranking_reporting(validation, config.train.seed)
        self._num_classes = method.num_classes
        self._embed = make_embed(
            _Logits(method),
            mesh,
            spec,
            batch_size=config.evaluate.batch_size,
        )

    def features(self, model: Model) -> Logits:
        """Returns a model as a function from a source to logits float32 [N, C]."""
        return lambda source: self._embed(model, source)

    def evaluate(
        self,
        features: Logits,
        names: tuple[str, ...] = (),
        *,
        full: bool = False,
        rows: np.ndarray | None = None,
    ) -> Scores:
        """Accuracy of a classifier on the validation split.

        Args:
            features: Function from a source to logits, from the method ``features``.
            names: Unused, since there is only one protocol.
            full: Unused, since the full evaluation is cheap enough during the run.
            rows: Rows int [r] of the validation split to report on; None: all of them.

        Returns:
            ``classifier`` with ``top1``, ``top5``, ``per_class`` and ``confusion``, accuracies as
            fractions in [0, 1]. If ``rows`` is None, also ``selection_top1``, the metric that ranks
            checkpoints.
        """
        scores = features(self._validation)
        reported = np.arange(len(scores)) if rows is None else rows
        selection_top1, ranking = None, self._selection
        if rows is None and len(ranking):
            selection_top1 = top1_top5(scores[ranking], self._labels[ranking])["top1"]
        found = classification(scores[reported], self._labels[reported])
        return Scores(classifier=dataclasses.replace(found, selection_top1=selection_top1))

    def report(
        self,
        last: Checkpoint,
        best: Checkpoint | None,
        untrained: Callable[[Source], Model],
        names: tuple[str, ...] = (),
        *,
        metrics: Scores | None = None,
    ) -> Results:
        """Evaluates the last checkpoint on all images and the best one on the reporting half.

        Args:
            last: Last checkpoint of the run.
            best: Best checkpoint; None: it is not evaluated.
            untrained: Unused: a classifier has no untrained baseline here.
            names: Unused, since there is only one protocol.
            metrics: Metrics of ``last`` from ``evaluate``; None: they are computed.

        Returns:
            The metrics of ``last`` and of ``best``, and the images that ranked checkpoints.
        """
        metrics = metrics or self.evaluate(self.features(last.model))
        text = f"last checkpoint: step {last.step}, not selected on any data, reported on all "
        text += f"{len(self._labels):,} validation examples"
        best_scores = None
        if best is not None and len(self._reporting):
            best_scores = BestScores(
                step=best.step,
                images=len(self._reporting),
                **self.evaluate(self.features(best.model), rows=self._reporting),
            )
            text += (
                f"\nbest checkpoint: step {best.step}, selected by top-1 on "
                f"{len(self._selection):,} of them; reported on the other "
                f"{len(self._reporting):,}"
            )
        return Results(
            step=last.step,
            num_classes=self._num_classes,
            **metrics,
            best=best_scores,
            selection=Selection(by="top-1", images=len(self._selection), words=text),
        )


class _Logits:
    """Adapter that lets ``make_embed`` compute a classifier's logits as features."""

    def __init__(self, method: Classifier) -> None:
        self._method = method

    def apply(self, variables: Model, x: Any, train: bool) -> dict[str, jax.Array]:
        """Logits [n, C] of the encoder's inputs, named "features"; ``train`` is ignored."""
        return {"features": self._method.logits(variables, x)}
