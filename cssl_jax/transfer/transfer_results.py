"""Results of fine-tuning and of domain adaptation as typed records.

They are the content of ``finetune.json`` and of ``adaptation.json``. ``results.seeds`` and
``results["seeds"]`` are the same value. Accuracies are fractions in [0, 1].
"""

import dataclasses
import statistics
from collections.abc import Sequence

from cssl_jax.evaluate.json_record import JsonRecord
from cssl_jax.evaluate.results import BASELINES, Leakage, Selection
from cssl_jax.evaluate.scores import Accuracy, ClassAccuracy

# Key of a training run in finetune.json -> label in tables.
STARTS = {"pretrained": "fine-tuned from the run", "random": "trained from random weights"}
# Key of all accuracies in finetune.json -> label in tables; those of the baselines follow.
CLASSIFIERS = {**STARTS, "features": "logistic regression on frozen features"}
# Key of a setting in adaptation.json -> label in tables.
SETTINGS = {
    "source": "source only",
    "bn": "target's BatchNorm statistics",
    "coral": "Deep CORAL",
    "dann": "DANN",
    "target": "target-supervised",
    "random": "source only, from random weights",
}
# Baseline -> label, of files from before other kinds of examples than images.
_PIXELS = {"pixels": BASELINES["pixels"]}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainedScores(ClassAccuracy):
    """Accuracy of a classifier that was trained, and how it was trained.

    Attributes:
        batch_size: Number of images per batch.
        epochs: Number of epochs.
        steps: Number of steps.
        learning_rate: Peak learning rate.
    """

    batch_size: int | None = None
    epochs: int | None = None
    steps: int | None = None
    learning_rate: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FractionScores(JsonRecord):
    """Accuracies with a fraction of the labels.

    Logistic regression on a baseline has the baseline's key, such as ``scores["pixels"]``.

    Attributes:
        labels: Number of labelled training images.
        pretrained: Classifier trained from the run's weights.
        random: Classifier trained in the same way from random weights.
        features: Logistic regression on the run's frozen features.
    """

    labels: int
    pretrained: TrainedScores | None = None
    random: TrainedScores | None = None
    features: Accuracy | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FinetuneResults(JsonRecord):
    """Content of finetune.json.

    Attributes:
        run: Name of the pretrained run's folder.
        fractions: Accuracies per fraction of the labels, such as "0.1".
        baseline_labels: Description of every baseline by its key; None in older files.
        selection: Images that report.
    """

    run: str
    fractions: dict[str, FractionScores]
    baseline_labels: dict[str, str] | None = None
    selection: Selection | None = None

    @property
    def labels(self) -> dict[str, str]:
        """Label in tables of every classifier by its key."""
        baselines = _PIXELS if self.baseline_labels is None else self.baseline_labels
        regressions = {name: f"logistic regression on {label}" for name, label in baselines.items()}
        return {**CLASSIFIERS, **regressions}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SeedScores(JsonRecord):
    """Top-1 accuracy over training seeds.

    Attributes:
        top1: Accuracy per seed.
        mean: Mean over the seeds.
        std: Sample standard deviation over the seeds; None for a single seed.
    """

    top1: list[float]
    mean: float
    std: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DomainScores(JsonRecord):
    """Accuracy of a setting per domain; None where no held-out image has a label.

    Attributes:
        source: Accuracy on held-out images of the labelled domain.
        target: Accuracy on held-out images of the domain that is adapted to.
    """

    source: SeedScores | None = None
    target: SeedScores | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AdaptationResults(JsonRecord):
    """Content of adaptation.json.

    Attributes:
        run: Name of the pretrained run's folder.
        encoder_hash: SHA-256 of the pretrained encoder's variables, in hex.
        source: Images of the labelled domain, as data.source.
        target: Images of the domain that is adapted to, as adapt.target.
        images: Number of images per split, and of labelled training images of the target
            ("target_labels").
        seeds: Number of seeds per setting.
        epochs: Number of epochs per training run.
        batch_size: Number of images per batch.
        baseline_labels: Description of every baseline by its key; None in older files.
        rows: Accuracies per setting, by the keys of ``SETTINGS`` and of the baselines.
        leakage: Held-out images of the target that occur among the training images, per domain.
    """

    run: str | None = None
    encoder_hash: str | None = None
    source: str | None = None
    target: str | None = None
    images: dict[str, int]
    seeds: int
    epochs: int | None = None
    batch_size: int | None = None
    baseline_labels: dict[str, str] | None = None
    rows: dict[str, DomainScores]
    leakage: dict[str, Leakage] | None = None

    @property
    def labels(self) -> dict[str, str]:
        """Label in tables of every setting by its key."""
        baselines = _PIXELS if self.baseline_labels is None else self.baseline_labels
        return SETTINGS | {name: f"source only, on {label}" for name, label in baselines.items()}


def over_seeds(top1: Sequence[float]) -> SeedScores:
    """Mean and deviation of accuracies, one per seed; null in JSON for the deviation of one."""
    deviation = statistics.stdev(top1) if len(top1) > 1 else None
    return SeedScores.from_json(
        {"top1": list(top1), "mean": statistics.fmean(top1), "std": deviation}
    )
