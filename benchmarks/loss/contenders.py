"""NT-Xent as several libraries compute it: time and memory of loss and gradient in one process."""

import importlib
import importlib.metadata
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
from measuring import process

WIDTH = 128
TEMPERATURE = 0.1
LABELS = {
    "tiled": "ours, tiles (auto)",
    "tiled-1024": "ours, tiles of 1,024",
    "dense": "ours, dense",
    "jax": "dense JAX",
    "optax": "optax",
    "lightly": "lightly",
}

Run = Callable[[], tuple[float, float]]  # one loss and gradient: (loss, norm of the gradient)


def measure(contender: str, pairs: int, seconds: float, imports: tuple[str, ...] = ()) -> dict:
    """Metrics of one contender at one size, in this process.

    Args:
        contender: Key of LABELS.
        pairs: N.
        seconds: Timed runs continue for so long; at least 3, at most 25.
        imports: Modules that the contender's environment needs to have imported first.

    Returns:
        ``baseline_bytes``, resident once libraries are loaded and data made; ``peak_bytes`` of the
        whole process; ``memory_bytes``, its growth over the baseline while compiling and running;
        ``running_bytes``, its growth while running, over what the compiler has left behind;
        ``compile_s``; ``time_s``, median of the timed runs, and ``fastest_s``; ``loss`` and
        ``gradient_norm``.
    """
    for name in imports:
        importlib.import_module(name)
    random = np.random.default_rng(0)
    views = [random.standard_normal((pairs, WIDTH), np.float32) for _ in range(2)]
    compiler, versions = BUILDERS[contender.split("-")[0]](contender, *views)
    baseline, imported_peak = process.resident_bytes(), process.peak_bytes()
    process.reset_peak()
    start = time.perf_counter()
    run = compiler()
    compile_s = time.perf_counter() - start
    compiling, compiled = process.peak_bytes(), process.resident_bytes()
    process.reset_peak()
    loss, norm, times = timed(run, seconds)
    running = process.peak_bytes()
    return {
        "loss": loss,
        "gradient_norm": norm,
        "time_s": statistics.median(times),
        "fastest_s": min(times),
        "runs": len(times),
        "compile_s": compile_s,
        "baseline_bytes": baseline,
        "memory_bytes": max(compiling, running) - baseline,
        "running_bytes": running - compiled,
        "peak_bytes": max(imported_peak, compiling, running),
        "versions": {name: importlib.metadata.version(name) for name in versions},
    }


def timed(run: Run, seconds: float) -> tuple[float, float, list[float]]:
    """(loss, gradient norm, seconds of each run); the first run warms up and does not count.

    One that takes more than twice ``seconds`` does: what is done only once is small beside it.
    """
    start = time.perf_counter()
    loss, norm = run()
    first = time.perf_counter() - start
    if first > 2 * seconds:
        return loss, norm, [first]
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 25):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return loss, norm, times


# ------------------------------------------------------------------------------------------ JAX


def _compiler(loss: Callable, *views: np.ndarray) -> Callable[[], Run]:
    """Compiles ``loss(z1, z2)`` with its gradient for these views, when called."""
    import jax
    import jax.numpy as jnp

    arrays = [jax.block_until_ready(jnp.asarray(view)) for view in views]

    def compiler() -> Run:
        both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        compiled = both.lower(*arrays).compile()

        def run() -> tuple[float, float]:
            value, gradient = jax.block_until_ready(compiled(*arrays))
            return float(value), _norm([np.asarray(g) for g in gradient])

        return run

    return compiler


def _norm(gradient: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.vdot(g, g) for g in gradient)))


def _ours(contender: str, *views: np.ndarray) -> tuple[Callable[[], Run], tuple[str, ...]]:
    from cssl_jax.losses import nt_xent

    tile = {"dense": None, "tiled": "auto", "tiled-1024": 1024}[contender]

    def loss(z1, z2):
        return nt_xent(z1, z2, temperature=TEMPERATURE, tile_size=tile)

    return _compiler(loss, *views), ("jax",)


def _dense_jax(contender: str, *views: np.ndarray) -> tuple[Callable[[], Run], tuple[str, ...]]:
    """What one writes who knows JAX: one product, a mask, logsumexp; positives from the rows."""
    import jax
    import jax.numpy as jnp

    def loss(z1, z2):
        z1, z2 = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (z1, z2))
        z = jnp.concatenate([z1, z2])
        logits = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, z @ z.T / TEMPERATURE)
        positive = jnp.sum(z1 * z2, axis=1) / TEMPERATURE
        return jnp.mean(jax.nn.logsumexp(logits, axis=1)) - jnp.mean(positive)

    return _compiler(loss, *views), ("jax",)


def _optax(contender: str, *views: np.ndarray) -> tuple[Callable[[], Run], tuple[str, ...]]:
    import jax.numpy as jnp
    import optax

    labels = jnp.tile(jnp.arange(len(views[0])), 2)

    def loss(z1, z2):
        return optax.losses.ntxent(jnp.concatenate([z1, z2]), labels, TEMPERATURE)

    return _compiler(loss, *views), ("jax", "optax")


# ---------------------------------------------------------------------------------------- torch


def _lightly(contender: str, *views: np.ndarray) -> tuple[Callable[[], Run], tuple[str, ...]]:
    import torch
    from lightly.loss import NTXentLoss

    torch.set_num_threads(os.cpu_count())  # as many as XLA takes
    tensors = [torch.from_numpy(view).requires_grad_() for view in views]
    loss = NTXentLoss(temperature=TEMPERATURE)

    def run() -> tuple[float, float]:
        for tensor in tensors:
            tensor.grad = None
        value = loss(*tensors)
        value.backward()
        return value.item(), _norm([tensor.grad.numpy() for tensor in tensors])

    return lambda: run, ("torch", "lightly")


BUILDERS = {
    "tiled": _ours,
    "dense": _ours,
    "jax": _dense_jax,
    "optax": _optax,
    "lightly": _lightly,
}
