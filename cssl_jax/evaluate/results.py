"""Results of an evaluation as typed records: the content of ``results.json``.

``results.linear.top1`` and ``results["linear"]["top1"]`` are the same value. docs/evaluation.md
defines the metrics; accuracies are fractions in [0, 1]. A metric is None if its key is missing, as
in files of earlier versions, or if its value was not finite.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from cssl_jax.evaluate.json_record import JsonRecord
from cssl_jax.evaluate.scores import BaselineScores, BestScores, Scores

UNTRAINED = "random_init"  # key of the untrained encoder's metrics in results.json
# Baseline's key in results.json -> label in tables, of files without "baseline_labels".
BASELINES = {UNTRAINED: "untrained encoder", "pixels": "raw pixels"}
# Keys that come before the metrics in a new results.json.
_CONTEXT = (
    *("config_hash", "seed", "skipped_steps", "epochs"),
    *("source", "validation_source", "split", "notes", "init", "step", "num_classes"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Selection(JsonRecord):
    """Images that ranked checkpoints, and images that report.

    Attributes:
        by: Metric that ranked checkpoints.
        images: Number of images that ranked checkpoints.
        reporting_images: Number of images that report on the best checkpoint.
        words: Description of both.
    """

    by: str | None = None
    images: int | None = None
    reporting_images: int | None = None
    words: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EncoderHash(JsonRecord):
    """SHA-256 of the variables of the evaluated checkpoints.

    Attributes:
        last: Digest of the last checkpoint, in hex.
        best: Digest of the best checkpoint, in hex.
        unchanged: Whether the digests are the same after the evaluation.
    """

    last: str | None = None
    best: str | None = None
    unchanged: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Leakage(JsonRecord):
    """Evaluation images that also occur among the images that were learnt from.

    Attributes:
        words: Description of the finding.
        exact: Number of evaluation images with an exact copy.
        near: Number of evaluation images with a near copy only; None if none are searched for.
        test: Number of evaluation images.
        share: Fraction of evaluation images that leak.
        other_labels: Number of leaking images whose label differs from that of their copy.
        pairs: Names of the first pairs, {"test", "train", "kind"} each.
    """

    words: str | None = None
    exact: int | None = None
    near: int | None = None
    test: int | None = None
    share: float | None = None
    other_labels: int | None = None
    pairs: list[dict[str, str]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SplitSizes(JsonRecord):
    """Numbers of images.

    Attributes:
        train: Number of images to fit on.
        validation: Number of images to report on.
    """

    train: int | None = None
    validation: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Results(Scores):
    """Results of a run or of an evaluation: metrics of the last checkpoint, and their context.

    Attributes:
        step: Training step of the last checkpoint.
        num_classes: Number of classes; 0 without labels.
        baselines: Metrics per baseline: of the untrained encoder, and of the baselines of the
            modality. These are keys of the object itself, ``results["pixels"]``.
        baseline_labels: Description of every baseline by its key; None in files of earlier
            versions, see ``BASELINES``.
        best: Metrics of the best checkpoint.
        selection: Images that ranked checkpoints.
        encoder_hash: Digests of the evaluated checkpoints.
        leakage: Leaking images by what was learnt from: "train", "pretraining".
        stages: Encoder stages that the segment protocol used, from 1.
        config_hash: Hash of the run's config.
        seed: Seed of the run.
        skipped_steps: Number of steps whose update was not finite.
        epochs: Number of epochs of the run.
        source: Images to fit on.
        validation_source: Images to report on.
        split: Number of images per split.
        notes: Notes on how the data were read.
        init: Run and modules of the initial weights.
        versions: Versions of Python and of packages.
        transfer: Results on other data, by their source.
    """

    config_hash: str | None = None
    seed: int | None = None
    skipped_steps: int | None = None
    epochs: int | None = None
    source: str | None = None
    validation_source: str | None = None
    split: SplitSizes | None = None
    notes: list[str] | None = None
    init: dict[str, Any] | None = None
    step: int
    num_classes: int | None = None
    stages: list[int] | None = None
    best: BestScores | None = None
    selection: Selection | None = None
    baselines: Mapping[str, BaselineScores] = dataclasses.field(
        default_factory=dict, metadata={"inline": True}
    )
    baseline_labels: dict[str, str] | None = None
    encoder_hash: EncoderHash | None = None
    leakage: dict[str, Leakage] | None = None
    versions: dict[str, str] | None = None
    transfer: "dict[str, Results] | None" = None
    key_order: tuple[str, ...] = dataclasses.field(
        default=_CONTEXT, repr=False, metadata={"key": False}
    )

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Reads the content of ``results.json``; see ``JsonRecord.from_json``."""
        record = super().from_json(content)
        baselines = {
            name: BaselineScores.from_json(value)
            for name, value in record.extra.items()
            if name in record.labels and value is not None
        }
        extra = {name: value for name, value in record.extra.items() if name not in baselines}
        return dataclasses.replace(record, baselines=baselines, extra=extra)

    @property
    def labels(self) -> Mapping[str, str]:
        """Description of every baseline by its key."""
        return BASELINES if self.baseline_labels is None else self.baseline_labels

    @property
    def raw_baselines(self) -> dict[str, BaselineScores]:
        """Metrics of the baselines without an encoder, by their labels."""
        return {
            self.labels[name]: scores
            for name, scores in self.baselines.items()
            if name != UNTRAINED
        }

    @property
    def rows(self) -> list[tuple[str, Scores]]:
        """Label and metrics of the trained encoder and of every baseline, for tables."""
        return [
            ("trained encoder", self),
            *((self.labels[name], scores) for name, scores in self.baselines.items()),
        ]
