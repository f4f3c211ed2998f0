"""Which runs of a process share a compiled step, and what it keeps in memory."""

import dataclasses
import gc
import weakref

import pytest

from cssl_jax import recipes
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.train.compiled_step import compiled_step
from helpers import tiny


def step_of(config, source=None):
    source = source or tiny.image_source()
    return compiled_step(Experiment.from_config(config, splits=(source, source)))


def test_runs_that_compute_the_same_share_their_step():
    config = tiny.config()
    step = step_of(config)
    logged = config.replace({"train.log_every": 7, "train.keep": 5, "evaluate.knn_k": 3})
    unlabelled = dataclasses.replace(tiny.image_source(), labels=None)
    assert step_of(logged) is step_of(config, unlabelled) is step


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method.temperature", 0.7),
        ("model.width", 0.25),
        ("model.norm_group", 8),
        ("optimizer.learning_rate", 0.5),
        ("optimizer.name", "sgd"),
        ("train.seed", 1),
        ("train.epochs", 2),
        ("train.batch_size", 8),
        ("train.micro_batch", 8),
        ("train.micro_batch_norm", "frozen"),
        ("augment.blur", (0.0,)),
        ("data.resident", False),
        ("data.size", 10),
        ("data.normalize", "unit"),
        ("runtime.devices", 4),
        ("runtime.backend", "pmap"),
    ],
)
def test_runs_that_compute_something_else_do_not(field, value):
    config = tiny.config()
    assert step_of(config.replace({field: value})) is not step_of(config)


def test_a_source_of_another_size_has_another_order_and_another_step():
    config = tiny.config()
    assert step_of(config, tiny.image_source(49)) is not step_of(config)


def test_domain_adaptation_compares_both_sources():
    config = recipes.with_method(tiny.config(), "dann")
    config = config.replace({"classifier.num_classes": 3, "adapt.target": "digits"})
    source = tiny.image_source()
    steps = [
        compiled_step(
            Experiment.from_config(
                config, splits=(source, source), target=tiny.image_source(size, seed=1)
            )
        )
        for size in (20, 20, 21)
    ]
    assert steps[0] is steps[1] is not steps[2]


@pytest.mark.slow
def test_the_training_examples_are_not_kept():
    source = tiny.image_source(50)
    images = weakref.ref(source.images)
    step = step_of(tiny.config(), source)
    del source
    gc.collect()
    assert callable(step)
    assert images() is None
