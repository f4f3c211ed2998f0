"""Evaluation of encoders on frozen features: protocols, diagnostics, verdicts, leakage."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.evaluate.diagnostics import alignment, rankme, uniformity, view_retrieval
    from cssl_jax.evaluate.encoders.load import Encoder, load_encoder
    from cssl_jax.evaluate.evaluator import Checkpoint, Evaluator
    from cssl_jax.evaluate.leakage import find_leakage
    from cssl_jax.evaluate.protocols.few_shot import few_shot
    from cssl_jax.evaluate.protocols.knn import knn
    from cssl_jax.evaluate.protocols.linear import linear_probe
    from cssl_jax.evaluate.protocols.retrieval import retrieval
    from cssl_jax.evaluate.results import BASELINES, Results
    from cssl_jax.evaluate.run import evaluate_run
    from cssl_jax.evaluate.scores import Scores
    from cssl_jax.evaluate.verdicts import Verdict

__all__ = [
    "BASELINES",
    "Checkpoint",
    "Encoder",
    "Evaluator",
    "Results",
    "Scores",
    "Verdict",
    "alignment",
    "evaluate_run",
    "few_shot",
    "find_leakage",
    "knn",
    "linear_probe",
    "load_encoder",
    "rankme",
    "retrieval",
    "uniformity",
    "view_retrieval",
]
__getattr__, __dir__ = public_names(__name__)
