"""Training state: one replicated pytree that holds all arrays of a run."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import numpy as np

from cssl_jax.methods.base import Method

PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """Arrays that a step reads and writes; replicated and donated, never stacked per device.

    Attributes:
        step: Number of completed steps, skipped ones included, int32 scalar. It determines the
            position in the data as well.
        params: Parameters {"encoder": ..., "projector": ...}, float32 or wider.
        model_state: Running statistics of BatchNorm, with the keys of ``params``.
        method_state: Additional state of a method (momentum copy, queue); empty for SimCLR.
        opt_state: State of the optimizer.
        skipped: Numbers of steps whose non-finite update was skipped, int32 [2]: total, and
            consecutive up to the current step.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    method_state: PyTree
    opt_state: PyTree
    skipped: jax.Array | np.ndarray = flax.struct.field(
        default_factory=lambda: np.zeros(2, np.int32)
    )

    @property
    def model(self) -> dict[str, PyTree]:
        """Arrays that are trained, with their statistics: {"params", "model_state"}."""
        return {"params": self.params, "model_state": self.model_state}

    def evaluated(self, method: Method) -> dict[str, PyTree]:
        """Arrays that the method evaluates, exports and saves: {"params", "model_state"}."""
        return method.evaluated(self.params, self.model_state, self.method_state)


Evaluated = Callable[[PyTree, PyTree, PyTree], dict[str, PyTree]]
_WEIGHTS = ("params", "model_state", "method_state")  # fields that an evaluated model may select


def trained_model(params: PyTree, model_state: PyTree, method_state: PyTree) -> dict[str, PyTree]:
    """The arrays that are trained, which most methods evaluate as well."""
    return {"params": params, "model_state": model_state}


def split_state(state: TrainState, evaluated: Evaluated) -> tuple[dict[str, PyTree], PyTree]:
    """Splits a state into the model that is evaluated and everything else, for a checkpoint.

    Args:
        state: Arrays, or their shapes.
        evaluated: ``Method.evaluated`` of the run's method.

    Returns:
        (model, rest). The rest is a dictionary of "step", "opt_state" and "skipped", and of those
        leaves of the other fields that are not part of the model, nested by their paths. No array
        occurs twice.
    """
    selected = set(jax.tree.leaves(_select_numbers(state, evaluated)))
    rest: dict[str, PyTree] = {
        "step": state.step,
        "opt_state": state.opt_state,
        "skipped": state.skipped,
    }
    for number, (path, leaf) in enumerate(_weights(state)):
        if number not in selected:
            *parents, name = path
            place = rest
            for parent in parents:
                place = place.setdefault(parent, {})
            place[name] = leaf
    return evaluated(state.params, state.model_state, state.method_state), rest


def join_state(
    like: TrainState, evaluated: Evaluated, model: dict[str, PyTree], rest: dict[str, PyTree]
) -> TrainState:
    """The state that ``split_state`` has split; ``like`` gives its structure."""
    numbers = jax.tree.leaves(_select_numbers(like, evaluated))
    values = dict(zip(numbers, jax.tree.leaves(model), strict=True))
    leaves = []
    for number, (path, _) in enumerate(_weights(like)):
        if number not in values:
            values[number] = rest
            for name in path:
                values[number] = values[number][name]
        leaves.append(values[number])
    weights = jax.tree.unflatten(jax.tree.structure([getattr(like, n) for n in _WEIGHTS]), leaves)
    others = {name: rest[name] for name in ("step", "opt_state", "skipped")}
    return TrainState(**dict(zip(_WEIGHTS, weights, strict=True)), **others)


def _weights(state: TrainState) -> list[tuple[tuple[str, ...], Any]]:
    """(path as strings, leaf) of every leaf that a model may select."""
    leaves = jax.tree_util.tree_leaves_with_path([getattr(state, name) for name in _WEIGHTS])
    return [
        ((_WEIGHTS[path[0].idx], *(jax.tree_util.keystr((k,), simple=True) for k in path[1:])), x)
        for path, x in leaves
    ]


def _select_numbers(state: TrainState, evaluated: Evaluated) -> dict[str, PyTree]:
    """The evaluated model, with the number of each leaf in ``_weights`` in place of the leaf."""
    leaves, structure = jax.tree.flatten([getattr(state, name) for name in _WEIGHTS])
    numbered = jax.tree.unflatten(structure, range(len(leaves)))
    return evaluated(*numbered)
