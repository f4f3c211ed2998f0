"""Evaluation of the model while it trains."""

import dataclasses
from typing import Any

from cssl_jax.config import Config
from cssl_jax.evaluate.classifier_evaluator import ClassifierEvaluator
from cssl_jax.evaluate.evaluator import Evaluator
from cssl_jax.evaluate.health import Health
from cssl_jax.experiment.experiment import Parts
from cssl_jax.methods.registry import method_entry


@dataclasses.dataclass(frozen=True)
class OnlineEvaluation:
    """Evaluates the model at intervals and at the end.

    Attributes:
        evaluator: Computes accuracies and diagnostics on the validation split.
        health: Detects a collapsed encoder, also without labels; None for classifiers.
    """

    evaluator: Evaluator | ClassifierEvaluator
    health: Health | None


def _of_features(config: Config, parts: Parts) -> OnlineEvaluation:
    spec, mesh = parts.spec, parts.mesh
    return OnlineEvaluation(
        Evaluator(config, parts.method.encoder, spec, parts.train, parts.validation, mesh),
        Health(parts.validation, config.augment, size=spec.size, seed=config.train.seed),
    )


def _of_classifier(config: Config, parts: Parts) -> OnlineEvaluation:
    method: Any = parts.method
    evaluator = ClassifierEvaluator(config, method, parts.spec, parts.validation, parts.mesh)
    return OnlineEvaluation(evaluator, None)


EVALUATIONS = {"features": _of_features, "classifier": _of_classifier}


def online_evaluation(config: Config, parts: Parts) -> OnlineEvaluation:
    """The evaluators that belong to a run's method."""
    return EVALUATIONS[method_entry(config.method.name).evaluation](config, parts)
