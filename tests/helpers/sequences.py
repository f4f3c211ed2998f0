"""Small encoders of sequences, their random variables, and inputs of different lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from cssl_jax.models.sequence import (
    ConvGRU,
    DilatedConvolutions,
    RecurrentEncoder,
    ResNet1d,
    SpectrogramResNet,
    Transformer,
)

STEPS, CHANNELS = 13, 3  # steps that no stride divides
LENGTHS = (13, 1, 5, 8, 12, 2, 9, 13)

SMALL = {
    "resnet1d": ResNet1d(width=1 / 16, stage_sizes=(1, 1), zero_init_residual=False),
    "cifar1d": ResNet1d(width=1 / 16, stage_sizes=(1, 1), stem="cifar", zero_init_residual=False),
    "spectrogram": SpectrogramResNet(width=1 / 16, stage_sizes=(1, 1), zero_init_residual=False),
    "dilated": DilatedConvolutions(width=1 / 16, depth=2, dropout=0.3),
    "gru": RecurrentEncoder(width=1 / 32, dropout=0.3),
    "lstm": RecurrentEncoder(width=1 / 32, cell="lstm", dropout=0.3),
    "bigru": RecurrentEncoder(width=1 / 32, bidirectional=True, dropout=0.3),
    "bilstm": RecurrentEncoder(width=1 / 32, cell="lstm", bidirectional=True, dropout=0.3),
    "conv_gru": ConvGRU(width=1 / 32),
    "wave_gru": ConvGRU(width=1 / 32, strides=(5, 2), kernels=(10, 4)),
    "transformer": Transformer(width=0.5, layers=2, dropout=0.3, drop_path=0.3),
}


def inputs(lengths=LENGTHS, steps=STEPS, padding=np.nan, dtype=np.float32):
    """Random sequences whose values from the length on are ``padding``."""
    rng = np.random.default_rng(7)
    values = rng.normal(size=(len(lengths), STEPS, CHANNELS))
    values = np.pad(values, ((0, 0), (0, steps - STEPS), (0, 0)))
    values[np.arange(steps) >= np.asarray(lengths)[:, None]] = padding
    return {"values": values.astype(dtype), "length": np.asarray(lengths, np.int32)}


def ragged(x):
    """The sequences without padding, as a list of float64 arrays [length, C]."""
    return [v[:n].astype(np.float64) for v, n in zip(x["values"], x["length"], strict=True)]


def keys(rows=8, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, (rows, 2), dtype=np.uint32)


def variables(encoder, dtype=np.float32, channels=CHANNELS):
    """Random variables, without the zeros and ones of an initialisation, and without compiling."""
    rng = np.random.default_rng(11)
    shapes = {"values": (2, STEPS, channels), "length": (2,)}
    x = {
        name: jnp.zeros(shape, (name[0] == "v" and float) or int) for name, shape in shapes.items()
    }

    def draw(path, leaf):
        name, noise = path[-1].key, rng.normal(size=leaf.shape)
        if name == "var":
            return (1 + 0.5 * np.tanh(noise)).astype(dtype)
        if noise.ndim > 1:
            return (noise / np.sqrt(np.prod(leaf.shape[:-1]))).astype(dtype)
        return ((name == "scale") + 0.2 * noise).astype(dtype)

    shapes = jax.eval_shape(encoder.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def convolution(x, parameters, stride=1, dilation=1):
    """Convolution [T, C] -> [ceil(T / stride), D] with symmetric padding, as explicit sums."""
    kernel = parameters["kernel"]
    outputs = np.zeros((-(-len(x) // stride), kernel.shape[2])) + parameters.get("bias", 0)
    for i, centre in enumerate(range(0, len(x), stride)):
        for tap, weights in enumerate(kernel):
            at = centre + (tap - len(kernel) // 2) * dilation
            if 0 <= at < len(x):
                outputs[i] += x[at] @ weights
    return outputs


def dense(x, parameters):
    return x @ parameters["kernel"] + parameters["bias"]


def gelu(x):
    return x * (1 + scipy.special.erf(x / np.sqrt(2))) / 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru_states(row, params):
    """All states [length, H] of a GRU layer: h' = (1 - z) n + z h."""
    h, states = np.zeros(len(params["recurrent_bias"])), []
    for x in row:
        xr, xz, xn = np.split(dense(x, params["input"]), 3)
        hr, hz, hn = np.split(h @ params["recurrent_kernel"], 3)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        h = (1 - z) * np.tanh(xn + r * (hn + params["recurrent_bias"])) + z * h
        states.append(h)
    return np.array(states)


def run(encoder, variables, x, train=False, keys=None, keep=None):
    """(outputs, updated statistics) of an encoder, compiled as one program."""

    def apply(variables, x, keys, keep):
        return encoder.apply(variables, x, train, keys, keep, mutable=["batch_stats"])

    return jax.device_get(jax.jit(apply)(variables, x, keys, keep))


def run_float64(name, train=False):
    """(sequences without padding, variables, outputs, updates) of a small encoder in float64."""
    encoder = SMALL[name]
    if hasattr(encoder, "dropout"):
        encoder = encoder.clone(dropout=0.0)
    with jax.enable_x64(True):
        x, weights = inputs(dtype=np.float64), variables(encoder, np.float64)
        outputs, updates = run(encoder, weights, x, train)
    floats = [leaf.dtype for leaf in jax.tree.leaves(outputs) if leaf.dtype.kind == "f"]
    assert set(floats) == {np.dtype(np.float64)}
    return ragged(x), weights, outputs, updates


def assert_tokens(tokens, expected, tolerance):
    """Tokens [n, T, d] are the expected arrays [length, d], then 0."""
    for row, steps in zip(tokens, expected, strict=True):
        np.testing.assert_allclose(row[: len(steps)], steps, atol=tolerance)
        np.testing.assert_array_equal(row[len(steps) :], 0)
