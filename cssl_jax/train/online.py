"""Evaluation of the model while it trains."""

import dataclasses
from typing import Any

from cssl_jax.config import Config
from cssl_jax.evaluate.classifier_evaluator import ClassifierEvaluator
from cssl_jax.evaluate.evaluator import Evaluator
from cssl_jax.evaluate.health import Health
from cssl_jax.experiment.experiment import Parts
from cssl_jax.methods.classifier import Classifier


@dataclasses.dataclass(frozen=True)
class OnlineEvaluation:
    """Evaluates the model at intervals and at the end.

    Attributes:
        evaluator: Computes accuracies and diagnostics on the validation split.
        health: Detects a collapsed encoder, also without labels; None for supervised methods.
    """

    evaluator: Evaluator | ClassifierEvaluator
    health: Health | None


def online_evaluation(config: Config, parts: Parts) -> OnlineEvaluation:
    """The evaluators that belong to a run's method."""
    method: Any = parts.method
    spec, mesh = parts.spec, parts.mesh
    if isinstance(method, Classifier):
        return OnlineEvaluation(
            ClassifierEvaluator(config, method, spec, parts.validation, mesh), None
        )
    return OnlineEvaluation(
        Evaluator(config, method.encoder, spec, parts.train, parts.validation, mesh),
        Health(parts.validation, config.augment, size=spec.size, seed=config.train.seed),
    )
