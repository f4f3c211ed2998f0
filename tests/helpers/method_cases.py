"""The methods that the contract of methods is tested on; a new one is one line of ``CASES``."""

import contextlib
import dataclasses
import importlib
from collections.abc import Callable
from unittest import mock

import jax
import numpy as np

from cssl_jax import recipes
from cssl_jax.losses import infonce, swav
from cssl_jax.losses.core import batch_statistics
from cssl_jax.methods import lejepa
from cssl_jax.methods.base import Context
from cssl_jax.models import normalization
from helpers import losses_numpy, methods_numpy, tiny

# The package has functions of the same names as these modules.
sigreg = importlib.import_module("cssl_jax.losses.sigreg")
DIRECTIONS = 5  # of LeJEPA
WIDTH, QUEUE = 6, 20  # 20 is no multiple of the batch of 16: the queue wraps within a batch
MICRO_BATCH = 8
STEP = 5  # of the comparison with loops: queues are filled, and warm-ups are over


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What the contract needs to know of a method.

    Attributes:
        loss: (outputs, targets, rows) -> loss of the global batch in float64 NumPy; ``rows`` are
            the queues and then the weights.
        faults: Patches of the objective by name, each a context manager; more than one device
            reveals them.
        values: Options that make the method small.
        predicts: True if the outputs are projections and predictions.
        queues: Names of the queues in the method_state.
        weights: Names of the parameters of the objective, unit rows.
        copies: True if the method_state has a momentum copy.
        state: rows of the weights -> further parts of the method_state that the objective reads.
        evaluates_copy: True if the momentum copy is evaluated.
    """

    loss: Callable
    faults: dict = dataclasses.field(default_factory=dict)
    values: dict = dataclasses.field(default_factory=dict)
    predicts: bool = True
    queues: tuple = ()
    weights: tuple = ()
    copies: bool = False
    state: Callable = lambda weights: {}
    evaluates_copy: bool = False


def without_gather(module=infonce):
    """Candidates are this device's rows."""
    return mock.patch.object(module, "gather", lambda x, axis_name: x)


def local_statistics():
    """Means and variances are those of this device's rows."""
    mean = batch_statistics._mean_of_rows
    return mock.patch.object(batch_statistics, "_mean_of_rows", lambda z, axis_name: mean(z, None))


def unsynchronised():
    """A queue receives this device's rows, as often as there are devices."""

    def global_rows(self, x):
        devices = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
        return jax.numpy.tile(x, (devices,) + (1,) * (x.ndim - 1))

    return mock.patch.object(Context, "global_rows", global_rows)


def local_moments():
    """Characteristic functions are those of this device's rows."""
    return mock.patch.object(sigreg, "_averaged", lambda moments, axis_name: moments)


def directions():
    """Directions of LeJEPA in step ``STEP``."""
    with jax.enable_x64(True):
        key = Context(jax.numpy.int32(STEP), 10, None).key(lejepa.DIRECTIONS)
        return np.asarray(sigreg.random_directions(key, WIDTH, DIRECTIONS, np.float64))


PREDICTOR = {"method.predictor_hidden": 5}
ROWS = {"method.queue": QUEUE}
CASES = {
    "barlow_twins": Case(
        loss=lambda out, targets, rows: methods_numpy.correlation_loss(
            out[:, 0], out[:, 1], 0.0051
        ),
        faults={"local statistics": local_statistics},
        predicts=False,
    ),
    "vicreg": Case(
        loss=lambda out, targets, rows: methods_numpy.vicreg(out[:, 0], out[:, 1], 25, 25, 1),
        faults={"local statistics": local_statistics},
        predicts=False,
    ),
    "lejepa": Case(
        loss=lambda out, targets, rows: methods_numpy.lejepa(out, 0.02, directions()),
        faults={"local moments": local_moments},
        values={"method.directions": DIRECTIONS},
        predicts=False,
    ),
    "simsiam": Case(
        loss=lambda out, targets, rows: methods_numpy.simsiam(
            out["predictions"], out["projections"]
        ),
        values=PREDICTOR,
    ),
    "byol": Case(
        loss=lambda out, targets, rows: methods_numpy.byol(out["predictions"], targets),
        values=PREDICTOR,
        copies=True,
    ),
    "moco_v3": Case(
        loss=lambda out, targets, rows: methods_numpy.moco_v3(out["predictions"], targets, 0.2),
        faults={"no gather": without_gather},
        values=PREDICTOR,
        copies=True,
    ),
    "moco_v2": Case(
        loss=lambda out, targets, rows: methods_numpy.moco_v2(out, targets, rows, 0.2),
        values=ROWS,
        predicts=False,
        queues=("queue1", "queue2"),
        copies=True,
    ),
    "nnclr": Case(
        loss=lambda out, targets, rows: methods_numpy.nnclr(
            out["projections"], out["predictions"], rows[0], 0.2
        ),
        faults={"no gather": without_gather},
        values={**PREDICTOR, **ROWS},
        queues=("support",),
    ),
    "swav": Case(
        loss=lambda out, targets, rows: methods_numpy.swav(out, rows[2], 0.1, 0.05, 3, rows[:2]),
        faults={"no gather": lambda: without_gather(swav)},
        values={"method.prototypes": QUEUE, "method.queue_epochs": 0.0, **ROWS},
        predicts=False,
        queues=("queue1", "queue2"),
        weights=("prototypes",),
    ),
    "dino": Case(
        loss=lambda out, targets, rows: methods_numpy.dino(
            out, targets, rows[0], rows[0][::-1], rows[0][:, 0], 0.1, 0.07
        ),
        values={
            "method.prototypes": QUEUE,
            "method.target_warmup_epochs": 2.0,
            "method.frozen_epochs": 0.0,
        },
        predicts=False,
        weights=("prototypes",),
        copies=True,
        state=lambda weights: {
            "params": {"prototypes": {"kernel": weights[0][::-1]}},
            "centre": weights[0][:, 0],
        },
        evaluates_copy=True,
    ),
}


# A masked autoencoder has no views to compare, so that test_mae.py tests it.
MASKED = {
    "model.encoder": "vit_micro",
    "model.patch": 2,
    "model.width": 1 / 8,
    "method.decoder_layers": 1,
    "method.decoder_hidden": 8,
    "method.decoder_heads": 2,
}


def config(name, *, encoder="linear", **values):
    """A small run of a method; ``values`` by "section.field" with "__" for the dot."""
    head = {"model.projector_hidden": 8, "model.projector_dim": WIDTH, "model.encoder": encoder}
    small = MASKED if name == "mae" else {**head, **CASES[name].values}
    more = {key.replace("__", "."): value for key, value in values.items()}
    plain = {"augment.blur": (0.0,), "augment.solarize": (0.0,)}
    return recipes.override(tiny.config(), {"method.name": name, **small, **plain, **more})


def draw(name, rows, seed=0):
    """(outputs, targets, rows of queues and weights) of a global batch in float64."""
    rng, case = np.random.default_rng(seed), CASES[name]

    def views():
        first = rng.normal(size=(rows, 1, WIDTH))
        return first + 0.7 * rng.normal(size=(rows, 2, WIDTH))

    outputs = {"projections": views(), "predictions": views()} if case.predicts else views()
    count = len(case.queues) + len(case.weights)
    return (
        outputs,
        views(),
        [losses_numpy.unit(rng.normal(size=(QUEUE, WIDTH))) for _ in range(count)],
    )


def variables(name, rows):
    """What the objective reads of (params, method_state), from the rows of ``draw``."""
    case = CASES[name]
    queues, weights = rows[: len(case.queues)], rows[len(case.queues) :]
    params = {key: {"kernel": value} for key, value in zip(case.weights, weights, strict=True)}
    state = {key: {"rows": value} for key, value in zip(case.queues, queues, strict=True)}
    return params, {**state, **case.state(weights)}


def local_norms():
    """BatchNorm statistics are those of this device's rows, in one group."""
    joint, apart = normalization.group_statistics, normalization._cell_statistics
    return mock.patch.multiple(
        normalization,
        group_statistics=lambda x, shift, axis_name, groups: joint(x, shift, None, 1),
        _cell_statistics=lambda x, running, mask, members, axis_name: apart(
            x, running, mask, members, None
        ),
    )


def unfaulty():
    return contextlib.nullcontext()
