"""Section ``correctness``: the device's results against float64 and against the CPU's."""

import functools
import pathlib
import sys
from typing import Any

import numpy as np

from accelerator.recorder import Recorder, seconds_per_call

TESTS = pathlib.Path(__file__).resolve().parents[2] / "tests"
TEMPERATURE = 0.1
BANDWIDTH = 3e12  # bytes/s of an H100's memory, for the lower bound of the max-pool's time


def run(record: Recorder, *, small: bool) -> None:
    """Losses, the max-pool's gradient, and 20 steps of training."""
    pairs = 64 if small else 2048
    rng = np.random.default_rng(0)
    views = [rng.standard_normal((pairs, 128)).astype(np.float32) for _ in range(2)]
    expected = nt_xent_float64(*views, TEMPERATURE)
    for tile in (None, 32 if small else 1024):
        name = f"nt_xent tile {tile} vs float64"
        record.attempt(name, functools.partial(_nt_xent, record, name, views, expected, tile))
    record.attempt("max_pool", lambda: _max_pool(record, small))
    record.attempt("training against the CPU", lambda: _training(record), seconds=15)
    for name in ("dcl", "sup_con", "siglip", "hard_nt_xent", "clip", "nt_logistic", "triplet"):
        record.attempt(name, functools.partial(_loss, record, name, views))


def relative(value: Any, expected: Any) -> float:
    """Norm of the difference over the norm of what is expected."""
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def nt_xent_float64(z1: np.ndarray, z2: np.ndarray, temperature: float) -> tuple[float, np.ndarray]:
    """Loss and gradient with respect to the rows of (z1, z2), in NumPy and float64.

    Written from the formula (arXiv 2002.05709, eq. 1): with unit rows v and softmax p over all
    other rows, d loss / d v_i = sum_j (p_ij + p_ji - 2 [j is the positive of i]) v_j / (2N t).
    """
    u = np.concatenate([z1, z2]).astype(np.float64)
    norm = np.linalg.norm(u, axis=1, keepdims=True)
    v, rows = u / norm, np.arange(len(u))
    logits = v @ v.T / temperature
    np.fill_diagonal(logits, -np.inf)
    largest = logits.max(1, keepdims=True)
    shares = np.exp(logits - largest)
    sums = shares.sum(1, keepdims=True)
    positive = np.roll(rows, len(z1))
    loss = np.mean((largest + np.log(sums))[:, 0] - logits[rows, positive])
    p = shares / sums
    p[rows, positive] -= 1
    gradient = (p + p.T) @ v / (len(u) * temperature)
    return loss, (gradient - (gradient * v).sum(1, keepdims=True) * v) / norm


def _nt_xent(
    record: Recorder,
    name: str,
    views: list[np.ndarray],
    expected: tuple[float, np.ndarray],
    tile: int | None,
) -> None:
    import jax

    from cssl_jax.losses import nt_xent

    loss = functools.partial(nt_xent, temperature=TEMPERATURE, tile_size=tile)
    value, gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*views)
    record.put(
        name,
        pairs=len(views[0]),
        loss=abs(float(value) - expected[0]) / expected[0],
        gradient=relative(np.concatenate(gradient), expected[1]),
    )


def _loss(record: Recorder, name: str, views: list[np.ndarray]) -> None:
    """Another loss in float32 on the device against itself in float64 on the CPU."""
    import jax
    import jax.numpy as jnp

    from cssl_jax import losses

    labels = np.arange(len(views[0]), dtype=np.int32) % 10
    calls = {
        "siglip": lambda a, b: losses.siglip(a, b, scale=10.0, bias=-10.0),
        "sup_con": lambda a, b: losses.sup_con(jnp.stack([a, b], 1), labels, temperature=0.1),
    }
    both = jax.value_and_grad(calls.get(name, getattr(losses, name)), argnums=(0, 1))
    value, gradient = jax.jit(both)(*views)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = [np.asarray(view, np.float64) for view in views]
        expected, slope = jax.jit(both)(*wide)
    record.put(
        f"{name} vs float64 on the CPU",
        pairs=len(views[0]),
        loss=abs(float(value) - float(expected)) / abs(float(expected)),
        gradient=relative(np.concatenate(gradient), np.concatenate(slope)),
    )


def _max_pool(record: Recorder, small: bool) -> None:
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from cssl_jax.models.pooling import max_pool

    shape = (4, 16, 16, 8) if small else (256, 112, 112, 64)
    x = jax.random.normal(jax.random.key(1), shape).astype(jnp.bfloat16)

    def gradient(pool: Any) -> Any:
        return jax.jit(jax.grad(lambda x: (pool(x).astype(jnp.float32) ** 2).sum()))

    ours = gradient(lambda x: max_pool(x, 3, 2, 1))
    theirs = gradient(lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))))
    first = np.asarray(ours(x), np.float32)
    record.put(
        "max_pool gradient vs select-and-scatter",
        difference=relative(first, np.asarray(theirs(x), np.float32)),
        same_bits=all(bool((first == np.asarray(ours(x), np.float32)).all()) for _ in range(3)),
        ours_ms=1e3 * seconds_per_call(lambda: ours(x), 0.5),
        select_and_scatter_ms=1e3 * seconds_per_call(lambda: theirs(x), 0.5),
        floor_ms=2.5 * x.nbytes / BANDWIDTH * 1e3,
    )


def _training(record: Recorder) -> None:
    """The same steps from the same state on the device and on the CPU."""
    import jax

    sys.path.append(str(TESTS))
    from cssl_jax.selfcheck.short_run import Trial, compare
    from helpers import tiny

    config, source = tiny.config(), tiny.image_source()
    device, cpu = jax.devices()[0], jax.devices("cpu")[0]
    state: Any = None
    outcomes: dict[tuple[str, str], Any] = {}

    def trial(where: Any) -> Trial:
        return Trial(config, source, [where], pipeline="resident", first_state=state)

    for dtype, steps in (("float64", 20), ("float32", 1)):
        for name, where in (("cpu", cpu), ("device", device)):
            with jax.enable_x64(dtype == "float64"), jax.default_device(where):
                this = trial(where)
                state = jax.tree.map(np.asarray, this.first_state)
                outcomes[dtype, name] = this.run(steps, np.dtype(dtype))
        found = compare(outcomes[dtype, "device"], outcomes[dtype, "cpu"])
        record.put(f"training {dtype}, device vs CPU", steps=steps, **found._asdict())
    with jax.default_matmul_precision("highest"):
        found = compare(trial(device).run(1), outcomes["float32", "cpu"])
        record.put("training float32 HIGHEST, device vs CPU", steps=1, **found._asdict())
