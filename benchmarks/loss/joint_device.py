"""The largest batch that a device trains with, by trying: every try is a process of its own."""

import argparse
import statistics
import time

from measuring import process
from measuring.report import gigabytes

# Of the device's memory; JAX takes three quarters unless told.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
TEMPERATURE = 0.1


def run(
    options: argparse.Namespace, model: dict, kinds: list[tuple[str, str]], tiles: dict
) -> dict:
    """Doubles the batch until one does not fit, then halves the interval to a sixteenth of it."""
    rows = []
    for loss, step in kinds:
        tries = _search(options, {**model, "step": step, "tile": tiles[loss]})
        fitted = [found for found in tries if "failed" not in found]
        best = max(fitted, key=lambda found: found["batch"], default={})
        rows.append({"step": step, "loss": loss, "largest": best, "tries": tries})
    found = process.call("loss.joint_device.backend")
    memory = {"memory_fraction": ENVIRONMENT["XLA_PYTHON_CLIENT_MEM_FRACTION"]}
    return {"device": found.get("device", "unknown device"), **memory, "rows": rows}


def _search(options: argparse.Namespace, kind: dict) -> list[dict]:
    tries: list[dict] = []

    def fits(batch: int) -> bool:
        measured = process.call(
            "loss.joint_device.attempt",
            **kind,
            batch=batch,
            micro_batch=options.micro_batch if kind["step"] == "GradCache" else 0,
            environment=ENVIRONMENT,
            timeout=options.timeout,
            memory_limit=options.memory_limit,
        )
        tries.append({"batch": batch, **measured})
        return "failed" not in measured

    unit = options.micro_batch
    low, high = 0, 1
    while high * unit <= options.largest_batch and fits(high * unit):
        low, high = high, 2 * high
    if high * unit > options.largest_batch:
        return tries
    # Only memory has a largest batch: whatever else fails would fail again.
    while process.OUT_OF_MEMORY in tries[-1].get("failed", process.OUT_OF_MEMORY):
        if high - low <= max(1, low // 16):
            break
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * unit) else (low, middle)
    return tries


# ---------------------------------------------------------------------- in a process of its own


def backend() -> dict:
    """Name of the default backend and of its first device."""
    import jax

    return {"backend": jax.default_backend(), "device": jax.devices()[0].device_kind}


def parts(
    encoder: str,
    size: int,
    dtype: str,
    *,
    remat: bool,
    axis_name: str | None,
    tile: str | None = None,
):
    """(method, optimizer, input) of SimCLR by LARS, as the recipe for ImageNet has them."""
    import jax.numpy as jnp
    import optax

    from cssl_jax.data.input_spec import ImageSpec
    from cssl_jax.methods.simclr import SimCLR
    from cssl_jax.models.heads import projection_head
    from cssl_jax.models.registry import build_encoder
    from cssl_jax.optim import optimizers
    from cssl_jax.optim.registry import OptimizerOptions

    shared = {"axis_name": axis_name, "dtype": jnp.bfloat16 if dtype == "bfloat16" else None}
    method = SimCLR(
        build_encoder(encoder, remat=remat, **shared),
        projection_head(**shared),
        TEMPERATURE,
        tile,
    )
    schedule = optax.constant_schedule(1e-3)
    optimizer = optimizers.make_optimizer("lars", schedule, OptimizerOptions(weight_decay=1e-6))
    return method, optimizer, ImageSpec(size, 3, (0.0,) * 3, (1.0,) * 3)


def attempt(
    encoder: str,
    size: int,
    dtype: str,
    step: str,
    tile: str | None,
    batch: int,
    micro_batch: int,
) -> dict:
    """Trains some steps on noise; fails, as a process, where memory does not suffice."""
    import jax
    import jax.numpy as jnp

    from cssl_jax.experiment import train_state
    from cssl_jax.runtime import spmd
    from cssl_jax.step.train_step import make_train_step

    method, optimizer, spec = parts(
        encoder, size, dtype, remat=step == "remat", axis_name=spmd.AXIS, tile=tile
    )
    mesh = spmd.make_mesh(jax.devices()[:1])
    train = spmd.data_parallel(
        make_train_step(
            method,
            optimizer,
            lambda _: 1e-3,
            lambda _, constants, host_batch: {
                "views": {"main": host_batch["views"].astype(jnp.float32) / 255}
            },
            total_steps=1000,
            axis_name=spmd.AXIS,
            micro_batches=batch // micro_batch if micro_batch else 1,
        ),
        mesh,
    )
    host_batch = jax.jit(lambda: {"views": noise((batch, 2, size, size, 3))})()
    state = spmd.replicate(train_state.init_state(method, optimizer, spec, 0), mesh)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        state, metrics = train(state, {}, host_batch)
        loss = float(metrics["loss"])
        times.append(time.perf_counter() - start)
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "images_per_second": 2 * batch / statistics.median(times[1:]),  # the first compiles
        "first_step_s": times[0],
        "peak_bytes": stats.get("peak_bytes_in_use", 0) or process.peak_bytes(),
        "loss": loss,
    }


def noise(shape: tuple[int, ...]):
    """uint8 noise, computed on the device so that the host need not hold it; any five axes."""
    import jax
    import jax.numpy as jnp

    mixed = jnp.zeros(shape, jnp.uint32)
    for axis, prime in enumerate((2654435761, 2246822519, 3266489917, 668265263, 374761393)):
        mixed = (mixed ^ jax.lax.broadcasted_iota(jnp.uint32, shape, axis)) * jnp.uint32(prime)
        mixed = mixed ^ (mixed >> 15)
    return mixed.astype(jnp.uint8)


def table(section: dict) -> str:
    lines = [f"{section['device']}, {section['memory_fraction']} of its memory",
             f"{'step':<12}{'loss':<8}{'largest N':>12}{'images/s':>12}{'peak':>12}"]  # fmt: skip
    for row in section["rows"]:
        best = row["largest"]
        name = f"{row['step']:<12}{row['loss']:<8}"
        if not best:
            lines.append(f"{name}{row['tries'][-1]['failed']}")
            continue
        failed = [found for found in row["tries"] if "failed" in found]
        first = min(failed, key=lambda found: found["batch"], default=None)
        beyond = f"{first['batch']:,}: {first['failed']}" if first else "nothing larger was tried"
        cells = f"{best['batch']:>12,}{best['images_per_second']:>12,.1f}"
        lines.append(f"{name}{cells}{gigabytes(best['peak_bytes']):>12}  {beyond}")
    lines.append("images/s: views, two an example; training steps on noise already on the device")
    return "\n".join(lines)
