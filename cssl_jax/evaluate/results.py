"""Results of an evaluation as typed records: the content of ``results.json``.

``results.linear.top1`` and ``results["linear"]["top1"]`` are the same value. docs/evaluation.md
defines the metrics; accuracies are fractions in [0, 1]. A metric is None if its key is missing, as
in files of earlier versions, or if its value was not finite.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from cssl_jax.evaluate.json_record import JsonRecord

UNTRAINED = "random_init"  # key of the untrained encoder's metrics in results.json
# Baseline's key in results.json -> label in tables, of files without "baseline_labels".
BASELINES = {UNTRAINED: "untrained encoder", "pixels": "raw pixels"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Accuracy(JsonRecord):
    """Accuracy on the validation images.

    Attributes:
        top1: Fraction of images whose class has the highest score.
        top5: Fraction of images whose class is among the five highest scores.
    """

    top1: float | None = None
    top5: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassAccuracy(Accuracy):
    """Accuracy with its details per class, see ``accuracy.classification``.

    Attributes:
        per_class: Accuracy per class; None for a class without images.
        confusion: Counts [classes][classes]: one row per true class, one column per predicted one.
        selection_top1: Top-1 accuracy on the images that rank checkpoints.
    """

    per_class: list[float | None] | None = None
    confusion: list[list[int]] | None = None
    selection_top1: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LinearScores(ClassAccuracy):
    """Metrics of the linear probe, means over the seeds; see ``protocols.linear``.

    Attributes:
        top1_std: Standard deviation of top-1 over the seeds.
        top5_std: Standard deviation of top-5 over the seeds.
        seeds: Number of held-out fractions on which the penalty was selected.
        l2: Penalty of the first seed.
        l2_by_seed: Penalty per seed.
    """

    top1_std: float | None = None
    top5_std: float | None = None
    seeds: int | None = None
    l2: float | None = None
    l2_by_seed: list[float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KnnScores(Accuracy):
    """Metrics of the nearest-neighbour classifier.

    Attributes:
        k: Number of neighbours that vote.
        by_k: Accuracy per number of neighbours.
        selection_top1: Top-1 accuracy on the images that rank checkpoints.
    """

    k: int | None = None
    by_k: dict[str, Accuracy] | None = None
    selection_top1: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shot(JsonRecord):
    """Accuracy with a number of labels per class, over random draws of the labels.

    Attributes:
        top1: Mean top-1 accuracy.
        ci95: Half the width of the 95 % confidence interval of ``top1``.
        std: Standard deviation of top-1 over the draws.
        top5: Mean top-5 accuracy.
    """

    top1: float | None = None
    ci95: float | None = None
    std: float | None = None
    top5: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FewShotScores(JsonRecord):
    """Metrics of the few-shot probe.

    Attributes:
        shots: Accuracy per number of labels per class.
        draws: Number of random label draws per number of labels.
        left_out: Numbers of labels that were skipped, because a class has fewer images.
        smallest_class: Number of training images of the smallest class.
    """

    shots: dict[str, Shot] | None = None
    draws: int | None = None
    left_out: list[int] | None = None
    smallest_class: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalScores(JsonRecord):
    """Metrics of retrieval; None if no query counts.

    Attributes:
        recall: Fraction of queries with an image of their class among the first k, per k.
        map: Mean average precision.
        queries: Number of queries that count.
    """

    recall: dict[str, float | None] | None = None
    map: float | None = None
    queries: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SegmentScores(JsonRecord):
    """Metrics of the segment protocol.

    Attributes:
        mean_iou: Mean intersection over union of the classes that occur.
        pixel_accuracy: Fraction of pixels with the correct class.
        per_class_iou: Intersection over union per class; None for a class that does not occur.
        per_class_accuracy: Fraction of correct pixels per class.
        confusion: Counts of pixels [classes][classes], one row per true class.
        l2: Penalty of the probe.
        pixels: Number of pixels that the probe was fitted on.
    """

    mean_iou: float | None = None
    pixel_accuracy: float | None = None
    per_class_iou: list[float | None] | None = None
    per_class_accuracy: list[float | None] | None = None
    confusion: list[list[int]] | None = None
    l2: float | None = None
    pixels: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GroupAccuracy(JsonRecord):
    """Accuracy on one group, fitted on all others.

    Attributes:
        top1: Fraction of examples whose class has the highest score.
        examples: Number of examples of the group.
    """

    top1: float | None = None
    examples: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GroupScores(JsonRecord):
    """Metrics of the linear probe with one group held out after another.

    Attributes:
        top1: Mean accuracy over the groups.
        top1_std: Standard deviation of the accuracy over the groups.
        by_group: Accuracy per group.
    """

    top1: float | None = None
    top1_std: float | None = None
    by_group: dict[str, GroupAccuracy] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scores(JsonRecord):
    """Metrics of one encoder by the protocols that ran; None for a protocol that did not.

    Attributes:
        knn: Nearest-neighbour classifier.
        linear: Linear probe.
        few_shot: Linear probe with few labels.
        retrieval: Retrieval of images of the same class.
        segment: Segmentation by a linear probe on pixels.
        groups: Linear probe with one group held out after another.
        classifier: Accuracy of a run that trains a classifier.
        view_retrieval: Fraction of images whose other view is their nearest neighbour.
        alignment: Mean squared distance of two views of an image.
        uniformity: Logarithm of the mean Gaussian potential of pairs of images.
        rankme: Effective rank of the features.
        selection_view_retrieval: View retrieval on the images that rank checkpoints.
    """

    knn: KnnScores | None = None
    linear: LinearScores | None = None
    few_shot: FewShotScores | None = None
    retrieval: RetrievalScores | None = None
    segment: SegmentScores | None = None
    groups: GroupScores | None = None
    classifier: ClassAccuracy | None = None
    view_retrieval: float | None = None
    alignment: float | None = None
    uniformity: float | None = None
    rankme: float | None = None
    selection_view_retrieval: float | None = None

    @property
    def accuracies(self) -> dict[str, Accuracy]:
        """Accuracies on labelled images by the name of the protocol, in the order of the tables."""
        found = {"linear": self.linear, "knn": self.knn, "classifier": self.classifier}
        return {name: accuracy for name, accuracy in found.items() if accuracy is not None}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BaselineScores(Scores):
    """Metrics of a baseline.

    Attributes:
        description: How the baseline was computed.
    """

    description: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BestScores(Scores):
    """Metrics of the best checkpoint on the images that did not rank checkpoints.

    Attributes:
        step: Training step of the checkpoint.
        images: Number of images that report.
        last: Metrics of the last checkpoint on the same images; None if it is the best one.
    """

    step: int | None = None
    images: int | None = None
    last: Scores | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Selection(JsonRecord):
    """Images that ranked checkpoints, and images that report.

    Attributes:
        words: Description of both.
        by: Metric that ranked checkpoints.
        images: Number of images that ranked checkpoints.
        reporting_images: Number of images that report on the best checkpoint.
    """

    words: str | None = None
    by: str | None = None
    images: int | None = None
    reporting_images: int | None = None


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
        default_factory=dict, metadata={"key": False}
    )
    baseline_labels: dict[str, str] | None = None
    encoder_hash: EncoderHash | None = None
    leakage: dict[str, Leakage] | None = None
    versions: dict[str, str] | None = None
    transfer: "dict[str, Results] | None" = None

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

    def _unordered_entries(self) -> dict[str, Any]:
        return {**super()._unordered_entries(), **self.baselines}

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
