"""Metrics of one encoder as typed records: what the protocols of an evaluation return.

docs/evaluation.md defines the metrics; accuracies are fractions in [0, 1]. A metric is None if its
key is missing, as in files of earlier versions, or if its value was not finite.
"""

import dataclasses
from typing import Any, Self

from cssl_jax.evaluate.json_record import JsonRecord

# Details that results.json has of the last checkpoint alone.
_DETAILS = ("per_class", "confusion", "selection_top1")


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
    key_order: tuple[str, ...] = dataclasses.field(
        default=("top1", "top1_std", "top5", "top5_std", "seeds", "l2", "l2_by_seed"),
        repr=False,
        metadata={"key": False},
    )


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
class StsScores(JsonRecord):
    """Metrics of semantic textual similarity.

    Attributes:
        spearman: Rank correlation of the cosine of two sentences with people's scores.
        pearson: Linear correlation of the same.
        pairs: Number of pairs of sentences.
    """

    spearman: float | None = None
    pearson: float | None = None
    pairs: int | None = None


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
        sts: Semantic textual similarity of pairs of sentences.
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
    sts: StsScores | None = None
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

    def flat(self) -> dict[str, float]:
        """Metrics by the names that metrics.jsonl has: {"knn.top1": ..., "rankme": ...}."""
        flat: dict[str, float] = {}
        for name, value in self.items():
            if not isinstance(value, JsonRecord):
                flat[name] = value
                continue
            # The other entries of a protocol are its settings, not metrics.
            for metric in ("top1", "top5", "selection_top1"):
                if metric in value:
                    flat[f"{name}.{metric}"] = value[metric]
        return flat

    def without_details(self) -> Self:
        """Copy without confusion, accuracy per class and the metrics that rank checkpoints."""
        changes: dict[str, Any] = {"selection_view_retrieval": None}
        for name, record in self.items():
            if isinstance(record, JsonRecord):
                absent: dict[str, Any] = {key: None for key in _DETAILS if hasattr(record, key)}
                changes[name] = dataclasses.replace(record, **absent)
        return dataclasses.replace(self, **changes)


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
    key_order: tuple[str, ...] = dataclasses.field(
        default=("step", "images"), repr=False, metadata={"key": False}
    )
