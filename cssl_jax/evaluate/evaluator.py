"""Evaluates an encoder during and after a run, with or without labels."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh

from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import Source, seeded_subset
from cssl_jax.errors import UserError
from cssl_jax.evaluate import leakage
from cssl_jax.evaluate.encoders.encoder_hash import require_unchanged, variables_hash
from cssl_jax.evaluate.encoders.features import Model, encoder_variables, make_embed
from cssl_jax.evaluate.encoders.last_blocks import with_last_blocks
from cssl_jax.evaluate.encoders.untrained import describe_untrained
from cssl_jax.evaluate.protocols import linear
from cssl_jax.evaluate.protocols import run as protocols
from cssl_jax.evaluate.ranking_split import (
    describe_split,
    labelled_examples,
    split_ranking_reporting,
)
from cssl_jax.evaluate.results import (
    BASELINES,
    UNTRAINED,
    EncoderHash,
    Results,
    Selection,
)
from cssl_jax.evaluate.scores import BaselineScores, BestScores, Scores
from cssl_jax.modalities.base import Baseline
from cssl_jax.modalities.registry import modality_entry


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A saved model.

    Attributes:
        step: Training step at which the model was saved.
        model: Variables {"params", "model_state"} of the model.
    """

    step: int
    model: Model


class Evaluator:
    """Evaluates encoders as a config requests, on the config's data; compiled once.

    A seeded half of the validation split ranks checkpoints during the run. The metrics of the best
    checkpoint are reported on the other half. The last checkpoint is not selected on any data, so
    that it is reported on the whole validation split.
    """

    def __init__(
        self,
        config: Config,
        encoder: nn.Module,
        spec: InputSpec,
        train: Source,
        validation: Source,
        mesh: Mesh,
        views: SizedGroup | None = None,
    ) -> None:
        """Prepares the splits and the compiled encoder.

        Args:
            config: Config of the run.
            encoder: Encoder module to evaluate.
            spec: Size and normalisation of the encoder's input.
            train: Training images, with or without labels.
            validation: Validation images, with or without labels.
            mesh: Devices that batches are sharded over.
            views: Group whose policy and size draw the views of label-free metrics; None: those of
                the config.

        Raises:
            UserError: ``evaluate.train_limit`` is 1, or ``evaluate.blocks`` does not fit.
        """
        self._config = config
        self._views = views or SizedGroup(count=2, size=spec.size, policy=config.augment)
        self._spec, self._modality = spec, modality_entry(spec.kind)
        self._all_train, self._all_validation = train, validation
        train = labelled_examples(train)
        limit = config.evaluate.train_limit
        if limit == 1:
            raise UserError(
                f"evaluate.train_limit is 1; give at least 2 {self._modality.noun}, or 0 for all "
                "of them"
            )
        self._train = seeded_subset(train, limit or len(train), seed=config.train.seed)
        self._validation = labelled_examples(validation)
        self._selection, self._reporting = split_ranking_reporting(validation, config.train.seed)
        self._embed = make_embed(
            with_last_blocks(encoder, config.evaluate),
            mesh,
            spec,
            batch_size=config.evaluate.batch_size,
        )

    @property
    def labelled(self) -> bool:
        """Whether both splits have labels."""
        return all(
            split.labels is not None and split.labels.min() >= 0
            for split in (self._train, self._validation)
        )

    def evaluate(
        self,
        features: protocols.Features,
        names: tuple[str, ...] = protocols.ONLINE,
        *,
        full: bool = False,
        rows: np.ndarray | None = None,
    ) -> Scores:
        """Metrics of a feature function by the requested protocols.

        Args:
            features: Function from a source of N images to features float32 [N, D].
            names: Names of protocols in ``protocols.PROTOCOLS``; ignored without labels.
            full: True evaluates all penalties, k and probe seeds, as at the end of a run. False
                uses the few penalties and the single k of an evaluation during it.
            rows: Rows int [r] of the validation split to report on; None: all of them. With None
                the metric that ranks checkpoints is included.

        Returns:
            The metrics of ``protocols.labelled`` with labels, else of ``protocols.unlabelled``.
        """
        options = self._config.evaluate
        validation = self._validation if rows is None else self._validation.take(rows)
        # A subset of the rows is for reporting only, so that it has no metric for ranking.
        selection = self._selection if rows is None and len(self._selection) else None
        if not self.labelled:
            return protocols.unlabelled(
                features,
                self._modality.to_arrays(validation, self._spec),
                self._views.policy,
                size=self._views.size,
                seed=self._config.train.seed,
                modality=self._modality,
                selection=selection,
            )
        settings: dict[str, Any] = {"l2_values": options.online_l2_values}
        if full:
            settings = {
                "l2_values": options.l2_values or linear.L2_VALUES,
                "knn_ks": options.knn_ks,
                "probe_seeds": options.probe_seeds,
            }

        def row_features(source: Source) -> np.ndarray:
            # The features of the whole validation split may be cached: index them.
            is_subset = source is validation and rows is not None
            return features(self._validation)[rows] if is_subset else features(source)

        return protocols.labelled(
            row_features,
            self._train,
            validation,
            protocols.ProtocolOptions(
                protocols=names,
                knn_k=options.knn_k,
                knn_temperature=options.knn_temperature,
                seed=self._config.train.seed,
                shots=options.shots,
                draws=options.draws,
                recall_at=options.recall_at,
                **settings,
            ),
            selection=selection,
        )

    def report(
        self,
        last: Checkpoint,
        best: Checkpoint | None,
        untrained: Callable[[Source], Model],
        names: tuple[str, ...] = protocols.ONLINE,
        *,
        metrics: Scores | None = None,
        chose_best: bool = True,
        ranked: Source | None = None,
    ) -> Results:
        """Evaluates the last and the best checkpoint, the untrained encoder and raw inputs.

        Args:
            last: Last checkpoint of the run, reported on the whole validation split.
            best: Best checkpoint, reported on the images that did not rank checkpoints; None: it is
                not evaluated.
            untrained: Function from training images to the untrained model, see
                ``untrained.untrained_model``.
            names: Names of protocols in ``protocols.PROTOCOLS``.
            metrics: Metrics of ``last`` from ``evaluate(..., full=True)``; None: they are computed.
            chose_best: Whether the images of this validation split ranked the run's checkpoints.
            ranked: Images that ranked checkpoints if ``chose_best`` is false. They are excluded
                from the report on ``best``. None: they are unknown, and nothing is excluded.

        Returns:
            The metrics of ``last`` from ``evaluate``, those of ``best`` and of the baselines, the
            images that ranked checkpoints, the digests of the encoders, and the leaking images.

        Raises:
            RunError: A protocol changed an encoder's variables.
        """
        rows = self._reporting if chose_best else self._unranked(ranked)
        checkpoints = {"last": last} | ({"best": best} if best is not None and len(rows) else {})
        hashes = {name: variables_hash(found.model) for name, found in checkpoints.items()}
        last_features = self._cached(last.model)
        if metrics is None:
            metrics = self.evaluate(last_features, names, full=True)
        best_scores = None
        if "best" in checkpoints:
            best_scores = self._best_scores(last, checkpoints["best"], last_features, names, rows)
        baselines = self._baselines(untrained, names)
        for name, checkpoint in checkpoints.items():
            require_unchanged(
                checkpoint.model, hashes[name], f"the encoder of the {name} checkpoint"
            )
        leaking = leakage.find_leakage(
            self._all_train,
            self._all_validation,
            f"training {self._modality.noun}",
            self._modality,
        )
        return Results(
            step=last.step,
            num_classes=self._train.num_classes if self.labelled else 0,
            **metrics,
            best=best_scores,
            selection=self._describe_selection(last, best, chose_best, len(rows)),
            baselines=baselines,
            baseline_labels={
                UNTRAINED: BASELINES[UNTRAINED],
                **{name: own.label for name, own in self._modality.baselines.items()},
            },
            encoder_hash=EncoderHash(last=hashes["last"], best=hashes.get("best"), unchanged=True),
            leakage={"train": leaking},
        )

    def _best_scores(
        self,
        last: Checkpoint,
        best: Checkpoint,
        last_features: protocols.Features,
        names: tuple[str, ...],
        rows: np.ndarray,
    ) -> BestScores:
        """Metrics of the best checkpoint, and of the last one if it is another, on the same rows.

        Args:
            last: Last checkpoint of the run.
            best: Best checkpoint.
            last_features: Features of ``last``.
            names: Names of protocols.
            rows: Rows int [r] of the validation split that report.
        """

        def on_rows(features: protocols.Features) -> Scores:
            return self.evaluate(features, names, full=True, rows=rows).without_details()

        is_last = best.step == last.step
        return BestScores(
            step=best.step,
            images=len(rows),
            **on_rows(last_features if is_last else self._cached(best.model)),
            # Best and last are comparable on the same images only.
            last=None if is_last else on_rows(last_features),
        )

    def _baselines(
        self, untrained: Callable[[Source], Model], names: tuple[str, ...]
    ) -> dict[str, BaselineScores]:
        """Metrics of the untrained encoder and of the modality's baselines, by their keys."""
        functions = {
            UNTRAINED: self.features(untrained(self._train)),
            **{name: self._fitted(own) for name, own in self._modality.baselines.items()},
        }
        return {
            name: BaselineScores(
                **self.evaluate(features, names, full=True).without_details(),
                description=describe_untrained(len(self._train)) if name == UNTRAINED else None,
            )
            for name, features in functions.items()
        }

    def _fitted(self, baseline: Baseline) -> protocols.Features:
        """Features of a baseline, whose statistics are those of the training split."""
        features = baseline.fitted_on(self._train)
        return lambda source: features(self._modality.from_arrays(source, self._spec))

    def _unranked(self, ranked: Source | None) -> np.ndarray:
        """Rows of the validation split that are not among the images that ranked checkpoints."""
        if ranked is None or self._modality.misfit(ranked, self._spec):
            return np.arange(len(self._validation))
        return np.flatnonzero(~leakage.is_among(self._validation, ranked, self._modality))

    def _describe_selection(
        self, last: Checkpoint, best: Checkpoint | None, chose_best: bool, reporting: int
    ) -> Selection:
        """Images that ranked checkpoints and images that report, as numbers and as text.

        Args:
            last: Last checkpoint of the run.
            best: Best checkpoint, None if it is not evaluated.
            chose_best: Whether the images of this validation split ranked the run's checkpoints.
            reporting: Number of validation images that report on ``best``.
        """
        total, noun = len(self._validation), self._modality.noun
        selection = Selection(
            by="kNN top-1" if self.labelled else "view retrieval",
            images=len(self._selection) if chose_best else total - reporting,
            reporting_images=reporting,
        )
        text = (
            f"last checkpoint: step {last.step}, not selected on any data, reported on all "
            f"{total:,} validation {noun}\n"
        )
        if best is None:
            text += "best checkpoint: not evaluated"
        elif not reporting:
            text += f"best checkpoint: not reported, since all validation {noun} ranked checkpoints"
        else:
            suffix = ", the last one" if best.step == last.step else ""
            images = describe_split(selection, total, chose_best, noun)
            text += (
                f"best checkpoint: step {best.step}{suffix}, selected by online {selection.by} "
                f"{images}"
            )
        return dataclasses.replace(selection, words=text)

    def features(self, model: Model) -> protocols.Features:
        """Returns the encoder of a model as a function from a source to features [N, D]."""
        variables = encoder_variables(model)
        return lambda source: self._embed(variables, source)

    def _cached(self, model: Model) -> Callable[[Source], np.ndarray]:
        """The ``features`` of a model, with those of the two whole splits computed once."""
        compute, cache = self.features(model), dict[int, np.ndarray]()

        def features(source: Source) -> np.ndarray:
            # Only these two sources live as long as the cache: an id can be reused otherwise.
            if source is not self._train and source is not self._validation:
                return compute(source)
            if id(source) not in cache:
                cache[id(source)] = compute(source)
            return cache[id(source)]

        return features
