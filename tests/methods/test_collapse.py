"""A collapse that is provoked is called out by name; the healthy method is not."""

import dataclasses
import types

import flax.linen as nn
import numpy as np
import pytest

from cssl_jax.evaluate import verdicts
from cssl_jax.losses import cosine
from cssl_jax.methods import byol, simsiam
from cssl_jax.methods.registry import METHODS
from helpers import method_cases, tiny

STEPS = 60
# Without BatchNorm in the head, nothing but the method's own means keeps projections apart.
SMALL = {
    "simsiam": {"optimizer__learning_rate": 0.2, "model__projector_norm": False},
    "byol": {"optimizer__learning_rate": 0.2, "method__momentum": 0.5},
    "vicreg": {"optimizer__learning_rate": 0.005},
    "lejepa": {"optimizer__learning_rate": 0.05},
    "dino": {
        "optimizer__learning_rate": 0.1,
        "model__projector_norm": True,  # a narrow head without it starts near 0
        "method__momentum": 0.9,
        "method__target_warmup_epochs": 0.0,
        "method__target_temperature_end": 0.04,
        "method__frozen_epochs": 0.0,
    },
}


def found(name, **values):
    """Kinds of the verdicts on the steps of a run of a small method."""
    config = method_cases.config(
        name,
        train__epochs=STEPS // 3,
        optimizer__name="sgd",
        optimizer__scaling="none",
        **{**SMALL[name], **values},
    )
    run = tiny.Run(config, 1)
    step, state, lines = run.train_step(), run.state(), []
    for number, host_batch in enumerate(run.host_batches(0, STEPS), start=1):
        state, metrics = step(state, run.constants, host_batch)
        scalars = {key: float(x) for key, x in metrics.items() if np.ndim(x) == 0}
        lines.append({"step": number, **scalars})
    facts = verdicts.facts(config, steps_per_epoch=3)
    return {verdict.kind for verdict in verdicts.check_steps(lines, facts)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lejepa", "vicreg", "dino", "simsiam", "byol"])
def test_a_healthy_run_has_no_collapse(name):
    assert not {"projections collapsed", "targets collapsed"} & found(name)


@pytest.mark.slow
def test_vicreg_without_the_variance_term_collapses():
    assert "projections collapsed" in found(
        "vicreg", optimizer__learning_rate=0.05, method__variance=0.0
    )


@pytest.mark.slow
def test_lejepa_without_sigreg_collapses():
    assert "projections collapsed" in found(
        "lejepa", optimizer__learning_rate=2.0, method__weight=0.0
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"method__target_temperature_end": 10.0},  # uniform targets
        {"method__centre_momentum": 1.0, "method__target_temperature_end": 0.001},  # no centre
    ],
    ids=["uniform targets", "no centre"],
)
def test_dino_with_flat_targets_or_without_its_centre_collapses(fault):
    assert "targets collapsed" in found("dino", **fault)


@pytest.mark.slow
def test_simsiam_without_the_stopped_gradient_collapses(monkeypatch):
    monkeypatch.setattr(cosine, "lax", types.SimpleNamespace(stop_gradient=lambda x: x))
    assert "projections collapsed" in found("simsiam")


class Identity(nn.Module):
    """A predictor that predicts nothing; Linen modules of methods have parameters."""

    @nn.compact
    def __call__(self, x, train=False):
        self.param("unused", nn.initializers.zeros_init(), ())
        return x


@pytest.mark.slow
@pytest.mark.parametrize("module", [simsiam, byol], ids=["simsiam", "byol"])
def test_a_method_without_its_predictor_collapses(monkeypatch, module):
    def build(config, modules):
        return dataclasses.replace(module.ENTRY.build(config, modules), predictor=Identity())

    name = module.ENTRY.config().name
    monkeypatch.setitem(METHODS, name, dataclasses.replace(module.ENTRY, build=build))
    assert "projections collapsed" in found(name)
