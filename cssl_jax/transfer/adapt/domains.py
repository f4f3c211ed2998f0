"""The images of an adaptation: of two domains, to train on and held out, with labels or without."""

import dataclasses

import numpy as np

from cssl_jax.config import Config
from cssl_jax.data.sources.base import Source
from cssl_jax.data.sources.classes import names_of, number_alike
from cssl_jax.errors import UserError
from cssl_jax.evaluate.evaluator import labelled_part
from cssl_jax.experiment import builders


class Domains:
    """Training and held-out images of both domains.

    Attributes:
        source: Labelled.
        source_test: Labelled.
        target: Trained on without its labels, if it has any.
        target_test: Labelled, where there are labels.
        target_labels: How many of ``target`` have one.
        target_classes: Class names by which a training on the target alone numbers its labels as
            the source does; () where its own numbers are the source's.
    """

    def __init__(self, config: Config) -> None:
        """Loads what ``data.*`` and ``adapt.*`` name.

        Raises:
            UserError: The source has no labels, or the domains do not fit each other.
        """
        classifier = dataclasses.replace(config.method, name="classifier")
        self.source, source_test = builders.load_data(
            dataclasses.replace(config, method=classifier)
        )
        self.source_test = labelled_part(source_test)
        parts = builders.load_target(config)
        self.target, target_test = (self._numbered(part, config) for part in parts)
        self.target_test = labelled_part(target_test)
        same = all(map(_same_labels, parts, (self.target, target_test)))
        self.target_classes = () if same else names_of(self.source)
        self.target_labels = _labels(self.target)
        builders.check_channels(self.target, self.source.channels)
        self._check_classes()

    def held_out(self) -> dict[str, Source]:
        """Domain -> its labelled held-out images; without the target where that has none."""
        parts = {"source": self.source_test, "target": self.target_test}
        return {name: part for name, part in parts.items() if _labels(part)}

    def counts(self) -> dict[str, int]:
        """Images of each part, and labels of the target's that train its own classifier."""
        return {
            "source": len(self.source),
            "source_test": len(self.source_test),
            "target": len(self.target),
            "target_labels": self.target_labels,
            "target_test": len(self.target_test),
        }

    def fingerprints(self) -> dict[str, str]:
        """Of each part, in words."""
        parts = {
            "source": self.source,
            "held-out source": self.source_test,
            "target": self.target,
            "held-out target": self.target_test,
        }
        return {f"{name} images": part.fingerprint() for name, part in parts.items()}

    def resolved(self, config: Config) -> Config:
        """The config with the number of classes and a batch that fits both domains."""
        size = min(config.train.batch_size, len(self.source), len(self.target))
        most = max(self.source.num_classes, self.source_test.num_classes)
        classes = config.classifier.num_classes or most
        return dataclasses.replace(
            config,
            classifier=dataclasses.replace(config.classifier, num_classes=classes),
            train=dataclasses.replace(config.train, batch_size=size),
        )

    def _numbered(self, target: Source, config: Config) -> Source:
        return number_alike(
            target,
            names_of(self.source),
            option="adapt.target",
            reference="data.source",
            unknown=config.data.unknown_classes,
            remedy=", or take the target without labels by --adapt.target-labels none",
        )

    def _check_classes(self) -> None:
        most = max(self.target.num_classes, self.target_test.num_classes)
        if most > self.source.num_classes:
            raise UserError(
                f"the target has labels up to {most - 1}, the source up to "
                f"{self.source.num_classes - 1}; number the classes of both alike"
            )


def _labels(source: Source) -> int:
    return 0 if source.labels is None else int(np.sum(source.labels >= 0))


def _same_labels(one: Source, other: Source) -> bool:
    if one.labels is None or other.labels is None:
        return one.labels is other.labels
    return np.array_equal(one.labels, other.labels)
