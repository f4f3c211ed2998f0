"""Per-domain accuracy of a classifier, and of the baselines of the modality."""

import numpy as np

from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.classifier_evaluator import NAME, ClassifierEvaluator
from cssl_jax.evaluate.encoders.features import Model
from cssl_jax.evaluate.encoders.load import Encoder
from cssl_jax.evaluate.protocols.linear import L2_VALUES, linear_probe
from cssl_jax.methods.supervised.classifier import Classifier
from cssl_jax.modalities.base import Baseline, Modality
from cssl_jax.transfer.adapt.domains import Domains

# Modules that evaluation uses. The domain classifier of DANN is needed in training only; passing it
# would change the structure of the arguments and compile the evaluation again.
_MODULES = ("encoder", "head", "classifier")


class DomainEvaluator:
    """Top-1 accuracy of classifiers per labelled domain; compiled once per architecture."""

    def __init__(self, domains: Domains) -> None:
        self._held_out = domains.held_out()
        self._evaluators: dict[InputSpec, dict[str, ClassifierEvaluator]] = {}

    def __call__(self, encoder: Encoder, model: Model) -> dict[str, float]:
        """Evaluates a classifier on the held-out images of every labelled domain.

        Args:
            encoder: Encoder loaded from the run of a classifier.
            model: Model to evaluate, of the same architecture as the run's model.

        Returns:
            Top-1 accuracy in [0, 1] per domain, with the keys "source" and "target".
        """
        if encoder.spec not in self._evaluators:
            self._evaluators[encoder.spec] = _evaluators(encoder, self._held_out)
        used = {
            collection: {name: value for name, value in modules.items() if name in _MODULES}
            for collection, modules in model.items()
        }
        return {
            name: evaluator.evaluate(evaluator.features(used))[NAME]["top1"]
            for name, evaluator in self._evaluators[encoder.spec].items()
        }


def _evaluators(encoder: Encoder, held_out: dict[str, Source]) -> dict[str, ClassifierEvaluator]:
    assert isinstance(encoder.method, Classifier)
    return {
        name: ClassifierEvaluator(
            encoder.config, encoder.method, encoder.spec, images, encoder.mesh
        )
        for name, images in held_out.items()
    }


def evaluate_baselines(
    config: Config, domains: Domains, modality: Modality
) -> dict[str, dict[str, float]]:
    """Top-1 accuracy of logistic regression that is fitted on a baseline's source features.

    Returns:
        Baseline -> labelled domain -> accuracy in [0, 1]; {} if the examples of the domains differ
        in shape.
    """
    if modality.layout(domains.source) != modality.layout(domains.target):
        return {}
    return {
        name: _evaluate_baseline(config, domains, baseline)
        for name, baseline in modality.baselines.items()
    }


def _evaluate_baseline(config: Config, domains: Domains, baseline: Baseline) -> dict[str, float]:
    features = baseline.fitted_on(domains.source)
    train = features(domains.source)
    return {
        name: linear_probe(
            train,
            np.asarray(domains.source.labels),
            features(test),
            np.asarray(test.labels),
            num_classes=config.classifier.num_classes,
            l2_values=config.evaluate.l2_values or L2_VALUES,
            seed=config.train.seed,
        )["top1"]
        for name, test in domains.held_out().items()
    }
