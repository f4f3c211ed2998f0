"""Evaluation of the model while it trains."""

import dataclasses
from typing import Any

from cssl_jax.evaluate.classifier_evaluator import ClassifierEvaluator
from cssl_jax.evaluate.encoders.features import Model
from cssl_jax.evaluate.evaluator import Evaluator
from cssl_jax.evaluate.health import Health
from cssl_jax.evaluate.scores import Scores
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.methods.registry import method_entry
from cssl_jax.modalities.registry import modality_entry


@dataclasses.dataclass(frozen=True)
class OnlineEvaluation:
    """Evaluates the model at intervals and at the end.

    Attributes:
        evaluator: Computes accuracies and diagnostics on the validation split.
        health: Detects a collapsed encoder, also without labels; None for classifiers.
    """

    evaluator: Evaluator | ClassifierEvaluator
    health: Health | None

    def evaluate(self, model: Model, *, full: bool) -> tuple[Scores, dict[str, float]]:
        """Evaluates a model; a collective call.

        Args:
            model: Parameters and running statistics, on the devices.
            full: True for all protocols, as at the end of a run; False for the online ones.

        Returns:
            (metrics for ``evaluator.report``, scores by name as in metrics.jsonl).
        """
        features = self.evaluator.features(model)
        metrics = self.evaluator.evaluate(features, full=full)
        found = self.health.metrics(features) if self.health else {}
        return metrics, {**metrics.flat(), **found}


def _of_features(experiment: Experiment) -> OnlineEvaluation:
    config, spec, mesh = experiment.config, experiment.spec, experiment.mesh
    group, modality = experiment.pipeline.first_group, modality_entry(spec.kind)
    return OnlineEvaluation(
        Evaluator(
            config,
            experiment.method.encoder,
            spec,
            experiment.train,
            experiment.validation,
            mesh,
            group,
        ),
        Health(
            modality.to_arrays(experiment.validation, spec),
            group.policy,
            size=group.size,
            seed=config.train.seed,
            modality=modality,
        ),
    )


def _of_classifier(experiment: Experiment) -> OnlineEvaluation:
    method: Any = experiment.method
    evaluator = ClassifierEvaluator(
        experiment.config, method, experiment.spec, experiment.validation, experiment.mesh
    )
    return OnlineEvaluation(evaluator, None)


EVALUATIONS = {"features": _of_features, "classifier": _of_classifier}


def online_evaluation(experiment: Experiment) -> OnlineEvaluation:
    """The evaluators that belong to a run's method."""
    return EVALUATIONS[method_entry(experiment.config.method.name).evaluation](experiment)
