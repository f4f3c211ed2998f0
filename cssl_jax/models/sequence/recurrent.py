"""GRU and LSTM encoders, in one or both directions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.models.dropout import Dropout
from cssl_jax.models.sequence.base import SequenceEncoder, sequence_entry
from cssl_jax.models.sequence.masks import split_input, with_omitted, zero_outside

State = tuple[jax.Array, ...]  # the output h comes first
Product = Callable[[jax.Array], jax.Array]  # h -> h times the recurrent kernel


def _gru(state: State, projected: jax.Array, product: Product, bias: jax.Array) -> State:
    """Next state (h,) of a GRU in the form of cuDNN and torch: the reset gate acts on W h + b."""
    (h,) = state
    reset_x, update_x, new_x = jnp.split(projected, 3, axis=-1)
    reset_h, update_h, new_h = jnp.split(product(h), 3, axis=-1)
    reset, update = nn.sigmoid(reset_x + reset_h), nn.sigmoid(update_x + update_h)
    return ((1 - update) * jnp.tanh(new_x + reset * (new_h + bias)) + update * h,)


def _lstm(state: State, projected: jax.Array, product: Product, bias: jax.Array) -> State:
    """Next state (h, c) of an LSTM; ``bias`` is added to the forget gate."""
    h, c = state
    enter, forget, new, leave = jnp.split(projected + product(h), 4, axis=-1)
    c = nn.sigmoid(forget + bias) * c + nn.sigmoid(enter) * jnp.tanh(new)
    return nn.sigmoid(leave) * jnp.tanh(c), c


class Cell(NamedTuple):
    """One kind of recurrent cell.

    Attributes:
        step: (state, projected input [n, gates H], product with the recurrent kernel, extra bias
            [H]) -> next state.
        gates: Number of gates: blocks of H columns in both kernels.
        states: Number of arrays [n, H] in the state.
        extra_bias: Initial value of the extra bias.
    """

    step: Callable[[State, jax.Array, Product, jax.Array], State]
    gates: int
    states: int
    extra_bias: float


# A forget bias of 1 lets gradients pass from the start (Jozefowicz et al. 2015, ICML).
# It is a parameter apart from the bias of the input projection, so that each has one initial value.
CELLS: dict[str, Cell] = {
    "gru": Cell(_gru, gates=3, states=1, extra_bias=0.0),
    "lstm": Cell(_lstm, gates=4, states=2, extra_bias=1.0),
}


def _orthogonal_gates(
    key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32
) -> jax.Array:
    """Kernel [H, gates H] of one orthogonal matrix [H, H] per gate."""
    size, columns = shape
    init = nn.initializers.orthogonal()
    # One QR decomposition of a stack compiles sooner than several.
    keys = jax.random.split(key, columns // size)
    gates: jax.Array = jax.vmap(lambda key: init(key, (size, size), dtype))(keys)
    return gates.transpose(1, 0, 2).reshape(shape)


class RecurrentLayer(nn.Module):
    """One layer in one direction.

    The products of all inputs with their kernel are one matrix product before the scan. On
    accelerators the scan is bound by latency, so each of its steps has one product only. States are
    float32 or wider: rounding of a bfloat16 state would add up over the steps.

    Attributes:
        features: Width H of the state.
        cell: Name in ``CELLS``.
        backward: True to run from the last step to the first.
        dtype: Compute dtype of the products; None: promoted from the inputs and the parameters.
    """

    features: int
    cell: str
    backward: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Runs over the steps that count; the others do not change the state.

        Padding follows the valid steps. The backward direction therefore passes it first, with the
        initial state 0, and needs no reversal by length.

        Args:
            x: Inputs, float [n, T, C].
            mask: bool [n, T], True at steps that count.
            train: Not used.

        Returns:
            (outputs [n, T, H] with 0 at steps that do not count, last state [n, H]), both float32
            or wider.
        """
        cell, size = CELLS[self.cell], self.features
        projected = nn.Dense(cell.gates * size, dtype=self.dtype, name="input")(x)
        kernel = self.param("recurrent_kernel", _orthogonal_gates, (size, cell.gates * size))
        bias = self.param("recurrent_bias", nn.initializers.constant(cell.extra_bias), (size,))
        wide = jnp.promote_types(jnp.promote_types(projected.dtype, kernel.dtype), jnp.float32)
        kernel, bias = kernel.astype(projected.dtype), bias.astype(wide)

        def product(h: jax.Array) -> jax.Array:
            return jnp.dot(h.astype(kernel.dtype), kernel, preferred_element_type=wide)

        def step(state: State, inputs: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
            at_step, counts = inputs
            new = cell.step(state, at_step.astype(wide), product, bias)
            state = tuple(
                jnp.where(counts[:, None], after, before)
                for after, before in zip(new, state, strict=True)
            )
            return state, state[0]

        initial = (jnp.zeros((len(x), size), wide),) * cell.states
        by_step = projected.swapaxes(0, 1), mask.T
        state, outputs = jax.lax.scan(step, initial, by_step, reverse=self.backward)
        return zero_outside(outputs.swapaxes(0, 1), mask), state[0]


class RecurrentEncoder(SequenceEncoder):
    """Layers of a GRU (arXiv 1406.1078) or LSTM (Gers et al. 2000).

    Features are the last layer's state after the last step that counts, [n, H] with H = 128 width.
    With both directions the backward state, after the first step, is appended: [n, 2 H]. Steps that
    ``keep`` omits are skipped, as if the sequence did not have them.

    A layer and direction with I input channels has G H (I + H + 1) + H parameters, with G = 3 gates
    for a GRU and 4 for an LSTM. At width 1, with two layers and C input channels:

    =======  ==================
    encoder  parameters
    =======  ==================
    gru      148,480 + 384 C
    lstm     197,888 + 512 C
    bigru    395,264 + 768 C
    bilstm   526,848 + 1,024 C
    =======  ==================

    The number of steps costs time on accelerators, as they run one after the other: a few hundred
    at most.

    Attributes:
        cell: Name in ``CELLS``.
        bidirectional: True to run every layer in both directions.
        layers: Number of layers.
        dropout: Rate of dropout on the outputs between two layers in training.
    """

    cell: str = "gru"
    bidirectional: bool = False
    layers: int = 2
    dropout: float = 0.0

    @property
    def num_stages(self) -> int:
        """Number of stages; every layer is one."""
        return self.layers

    def depth_of(self, path: tuple[Any, ...]) -> int:
        """Layer of a parameter from 1, by its path below the encoder."""
        return int(path[0].key.removeprefix("layer").split("_")[0])  # layer1_forward, ...

    @nn.compact
    def __call__(
        self,
        x: Any,
        train: bool = False,
        keys: jax.Array | None = None,
        keep: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Encodes sequences, see ``SequenceEncoder``.

        Returns:
            Dictionary of "features", float [n, D], "tokens", the outputs of the last layer, float
            [n, T, D], both float32 or wider, and "stages", the list of outputs of each layer. D is
            128 width, twice that with both directions.

        Raises:
            UserError: ``x`` is no tree of sequences.
            ValueError: ``train`` is True, the rate of dropout is not 0, and there are no keys.
        """
        y, mask = split_input(x)
        mask = with_omitted(mask, keep)
        directions = ("forward", "backward") if self.bidirectional else ("forward",)
        layer, stages = self.block(RecurrentLayer), []
        for i in range(self.layers):
            if i > 0:
                y = Dropout(self.dropout, layer=i)(y, keys, train=train)
            results = [
                layer(
                    self.channels(128),
                    self.cell,
                    direction == "backward",
                    self.dtype,
                    name=f"layer{i + 1}_{direction}",
                )(y, mask, train)
                for direction in directions
            ]
            outputs, states = zip(*results, strict=True)
            y = jnp.concatenate(outputs, axis=-1)
            stages.append(y)
        return {"features": jnp.concatenate(states, axis=-1), "tokens": y, "stages": stages}


GRU = sequence_entry(RecurrentEncoder, cell="gru")
LSTM = sequence_entry(RecurrentEncoder, cell="lstm")
BIGRU = sequence_entry(RecurrentEncoder, cell="gru", bidirectional=True)
BILSTM = sequence_entry(RecurrentEncoder, cell="lstm", bidirectional=True)
