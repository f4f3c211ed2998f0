"""Evaluation of the model while it trains."""

import dataclasses
from typing import Any

from cssl_jax.config import Config
from cssl_jax.evaluate.classifier_evaluator import ClassifierEvaluator
from cssl_jax.evaluate.evaluator import Evaluator
from cssl_jax.evaluate.health import Health
from cssl_jax.experiment.experiment import Experiment
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


def _of_features(config: Config, experiment: Experiment) -> OnlineEvaluation:
    spec, mesh = experiment.spec, experiment.mesh
    return OnlineEvaluation(
        Evaluator(
            config, experiment.method.encoder, spec, experiment.train, experiment.validation, mesh
        ),
        Health(experiment.validation, config.augment, size=spec.size, seed=config.train.seed),
    )


def _of_classifier(config: Config, experiment: Experiment) -> OnlineEvaluation:
    method: Any = experiment.method
    evaluator = ClassifierEvaluator(
        config, method, experiment.spec, experiment.validation, experiment.mesh
    )
    return OnlineEvaluation(evaluator, None)


EVALUATIONS = {"features": _of_features, "classifier": _of_classifier}


def online_evaluation(config: Config, experiment: Experiment) -> OnlineEvaluation:
    """The evaluators that belong to a run's method."""
    return EVALUATIONS[method_entry(config.method.name).evaluation](config, experiment)
