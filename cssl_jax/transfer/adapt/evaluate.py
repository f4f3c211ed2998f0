"""How right a classifier is on the held-out images of each domain, and how right pixels are."""

import numpy as np

from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec, pixel_sides
from cssl_jax.evaluate.classifier_evaluator import NAME, ClassifierEvaluator
from cssl_jax.evaluate.features import Model, pixels
from cssl_jax.evaluate.load import Encoder
from cssl_jax.evaluate.protocols.linear import L2_VALUES, linear_probe
from cssl_jax.methods.classifier import Classifier
from cssl_jax.transfer.adapt.domains import Domains

# Of a classifier's modules; a domain classifier, which only training needs, would compile anew.
_MODULES = ("encoder", "head", "classifier")


class DomainEvaluator:
    """Top-1 of classifiers of one architecture by domain, where that has labels; compiled once."""

    def __init__(self, domains: Domains) -> None:
        self._parts = domains.held_out()
        self._evaluators: dict[InputSpec, dict[str, ClassifierEvaluator]] = {}

    def __call__(self, encoder: Encoder, model: Model) -> dict[str, float]:
        """{"source", "target"} as shares in [0, 1].

        Args:
            encoder: Of a classifier's run.
            model: Its model, or that with other numbers.
        """
        if encoder.spec not in self._evaluators:
            self._evaluators[encoder.spec] = _evaluators(encoder, self._parts)
        own = {
            part: {name: value for name, value in of.items() if name in _MODULES}
            for part, of in model.items()
        }
        return {
            name: evaluator.judge(evaluator.features(own))[NAME]["top1"]
            for name, evaluator in self._evaluators[encoder.spec].items()
        }


def _evaluators(encoder: Encoder, parts: dict) -> dict[str, ClassifierEvaluator]:
    assert isinstance(encoder.method, Classifier)
    return {
        name: ClassifierEvaluator(encoder.config, encoder.method, encoder.spec, part, encoder.mesh)
        for name, part in parts.items()
    }


def pixel_baseline(config: Config, domains: Domains) -> dict[str, float] | None:
    """Top-1 by domain of logistic regression on the source's raw pixels.

    Returns:
        As ``DomainEvaluator``; None where pixels of the two domains are not of one shape.
    """
    if pixel_sides(domains.source) != pixel_sides(domains.target):
        return None
    train = pixels(domains.source)
    return {
        name: linear_probe(
            train,
            np.asarray(domains.source.labels),
            pixels(part),
            np.asarray(part.labels),
            num_classes=config.classifier.num_classes,
            l2_values=config.evaluate.l2_values or L2_VALUES,
            seed=config.train.seed,
        )["top1"]
        for name, part in domains.held_out().items()
    }
