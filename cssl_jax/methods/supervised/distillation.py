"""Distillation of a classifier on unlabelled examples, the last stage of SimCLRv2."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import POSITIVE, Range
from cssl_jax.errors import UserError
from cssl_jax.methods.base import Batch, Context, PyTree, flat_views
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost, options_of
from cssl_jax.methods.supervised.classifier import (
    Classifier,
    chance_level,
    check_classifier,
    classifier_fields,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig(MethodConfig):
    """A new classifier imitates the predictions of a trained one; labels are not read.

    Attributes:
        teacher: Run folder of the classifier to imitate, such as one of `cssl-jax finetune`.
        temperature: Temperature tau that divides the logits of both classifiers; below 1 the
            teacher's predictions become more certain.
    """

    ranges: ClassVar[Mapping[str, Range]] = {"temperature": POSITIVE}

    name: str = "distillation"
    teacher: str = ""
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class Distillation(Classifier):
    """Cross entropy between the teacher's and the classifier's predictions of the same view.

    SimCLRv2 (arXiv 2006.10029, eq. 2): minus sum over classes c of P_T(c) log P_S(c), with the
    softmax of logits / tau for both. The gradient shrinks as tau grows: unlike in Hinton et al.
    (arXiv 1503.02531) there is no factor tau squared. The teacher sees the example's augmented
    view, uses its running statistics, drops nothing, and does not change.

    Attributes:
        teacher: Classifier with as many classes; None where only the trained one is used.
        temperature: Temperature tau.
    """

    teacher: Classifier | None = None
    temperature: float = 1.0

    def targets(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[jax.Array, PyTree]:
        """The teacher's logits [n, C]."""
        assert self.teacher is not None, "a run is trained with its teacher"
        rows = flat_views(batch["views"]["main"])
        return self.teacher.logits(method_state["teacher"], rows), {}

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Mean cross entropy; "teacher_entropy" is the least that it can be.

        "agreement" is the fraction of the examples whose most likely class is the teacher's.
        """
        theirs = examples["targets"]
        chex.assert_equal_shape([outputs, theirs])
        expected = jax.nn.log_softmax(theirs / self.temperature)
        weights = jnp.exp(expected)
        found = jax.nn.log_softmax(outputs / self.temperature)
        loss = -jnp.mean(jnp.sum(weights * found, axis=-1))
        entropy = -jnp.mean(jnp.sum(weights * expected, axis=-1))
        same = jnp.argmax(outputs, axis=-1) == jnp.argmax(theirs, axis=-1)
        agreement = jnp.mean(same.astype(outputs.dtype))
        return loss, {"loss": loss, "teacher_entropy": entropy, "agreement": agreement}, {}


def _build(config: Config, modules: Modules) -> Distillation:
    options = options_of(config, DistillationConfig)
    teacher = modules.teacher
    if teacher is not None:
        if not isinstance(teacher, Classifier):
            raise UserError(
                f"method.teacher {options.teacher} is no classifier; give a run of `cssl-jax "
                "finetune`"
            )
        if teacher.num_classes != config.classifier.num_classes:
            raise UserError(
                f"classifier.num_classes is {config.classifier.num_classes}, and method.teacher "
                f"{options.teacher} has {teacher.num_classes} classes; give "
                f"--classifier.num-classes {teacher.num_classes}"
            )
    return Distillation(
        **classifier_fields(config, modules), teacher=teacher, temperature=options.temperature
    )


def _check(config: Config) -> None:
    options = options_of(config, DistillationConfig)
    if not options.teacher:
        raise UserError(
            "method.name is 'distillation' and method.teacher empty; give the run folder of a "
            "classifier, such as runs/finetuned/0.1-pretrained of `cssl-jax finetune`"
        )
    if config.classifier.num_classes < 2:
        raise UserError(
            f"classifier.num_classes is {config.classifier.num_classes}; give the number of "
            f"classes of method.teacher {options.teacher}"
        )
    check_classifier(config)


ENTRY = MethodEntry(
    build=_build,
    chance_level=chance_level,
    config=DistillationConfig,
    check=_check,
    evaluation="classifier",
    teacher=lambda config: options_of(config, DistillationConfig).teacher,
    cost=lambda config: StepCost(views=1, targets=1, contrasts=False),
    sections=("classifier",),
)
