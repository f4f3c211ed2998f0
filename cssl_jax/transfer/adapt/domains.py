"""Training and held-out images of the source and the target domain of an adaptation."""

import numpy as np

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.data.sources.base import Source
from cssl_jax.data.sources.classes import align_class_numbers, names_of
from cssl_jax.errors import UserError
from cssl_jax.evaluate.ranking_split import labelled_examples
from cssl_jax.experiment import data_splits


class Domains:
    """Training and held-out images of both domains.

    Attributes:
        source: Labelled training images of the source domain.
        source_test: Labelled held-out images of the source domain.
        target: Training images of the target domain; adaptation ignores their labels.
        target_test: Held-out images of the target domain, the labelled ones if any have labels.
        target_labels: Number of labelled images in ``target``.
        target_classes: Class names in the order of the source. Supervised training on the target
            uses them to number its labels as the source does. (): the numbers agree already.
    """

    def __init__(self, config: Config) -> None:
        """Loads the images that ``data.*`` and ``adapt.*`` name.

        Raises:
            UserError: The source has no labels, or the domains are incompatible.
        """
        self.source, source_test = data_splits.load_data(recipes.with_method(config, "classifier"))
        self.source_test = labelled_examples(source_test)
        splits = data_splits.load_target(config)
        self.target, target_test = (self._renumber(split, config) for split in splits)
        self.target_test = labelled_examples(target_test)
        unchanged = all(map(_same_labels, splits, (self.target, target_test)))
        self.target_classes = () if unchanged else names_of(self.source)
        self.target_labels = _count_labels(self.target)
        data_splits.check_target(config, self.target, data_splits.input_spec(config, self.source))
        self._check_classes()

    def held_out(self) -> dict[str, Source]:
        """Domain -> labelled held-out images; the target is omitted if it has no labels."""
        splits = {"source": self.source_test, "target": self.target_test}
        return {name: split for name, split in splits.items() if _count_labels(split)}

    def counts(self) -> dict[str, int]:
        """Numbers of images per domain and split, and of labelled target training images."""
        return {
            "source": len(self.source),
            "source_test": len(self.source_test),
            "target": len(self.target),
            "target_labels": self.target_labels,
            "target_test": len(self.target_test),
        }

    def fingerprints(self) -> dict[str, str]:
        """Description such as "held-out source images" -> fingerprint, per domain and split."""
        splits = {
            "source": self.source,
            "held-out source": self.source_test,
            "target": self.target,
            "held-out target": self.target_test,
        }
        return {f"{name} images": split.fingerprint() for name, split in splits.items()}

    def resolved(self, config: Config) -> Config:
        """Config with the number of classes, and with a batch size that both domains can fill."""
        size = min(config.train.batch_size, len(self.source), len(self.target))
        present = max(self.source.num_classes, self.source_test.num_classes)
        classes = config.classifier.num_classes or present
        return config.replace({"classifier.num_classes": classes, "train.batch_size": size})

    def _renumber(self, target: Source, config: Config) -> Source:
        return align_class_numbers(
            target,
            names_of(self.source),
            option="adapt.target",
            reference="data.source",
            unknown=config.data.unknown_classes,
            remedy=", or ignore the labels of the target by --adapt.target-labels none",
        )

    def _check_classes(self) -> None:
        classes = max(self.target.num_classes, self.target_test.num_classes)
        if classes > self.source.num_classes:
            raise UserError(
                f"the target has labels up to {classes - 1}, the source up to "
                f"{self.source.num_classes - 1}; use the same class numbers in both"
            )


def _count_labels(source: Source) -> int:
    return 0 if source.labels is None else int(np.sum(source.labels >= 0))


def _same_labels(first: Source, second: Source) -> bool:
    if first.labels is None or second.labels is None:
        return first.labels is second.labels
    return np.array_equal(first.labels, second.labels)
