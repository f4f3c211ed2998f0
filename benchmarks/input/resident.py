"""Section ``resident``: what making the views costs a step of ResNet-18 on a GPU."""

import argparse
import pathlib
import tempfile
import time
from typing import Any

import numpy as np
from measuring import process
from measuring.report import target

ELSEWHERE = "not measured: JAX's default backend is {backend}, not gpu"
SHARE, HOST_MS = 0.05, 2.0
OVERRIDES = {"model.dtype": "bfloat16"}  # as one trains on an accelerator
DISPATCHED = 20  # steps sent off without waiting


def run(options: argparse.Namespace) -> dict:
    """On a GPU; elsewhere it says so."""
    found = process.call("input.resident.backend")
    backend = found.get("backend", found.get("failed"))
    if backend != "gpu":
        return {"failed": ELSEWHERE.format(backend=backend), "targets": _targets({})}
    arguments = {"seconds": options.seconds, "overrides": OVERRIDES}
    measured = process.call("input.resident.measure", **arguments, timeout=options.timeout)
    return {**measured, "targets": _targets(measured)}


def _targets(measured: dict) -> list[dict]:
    return [
        target("resident pipeline / ResNet-18 step", [measured.get("share")], SHARE),
        target("host time a step, ms", [measured.get("host_ms")], HOST_MS),
    ]


def table(section: dict) -> str:
    if "failed" in section:
        return f"resident CIFAR-10 beside a ResNet-18 step  {section['failed']}"
    return (
        f"{section['device']}, batch {section['batch_size']}, {section['dtype']}: step "
        f"{section['step_ms']:.2f} ms, with views made beforehand {section['fixed_ms']:.2f} ms, "
        f"host {section['host_ms']:.2f} ms a step"
    )


# ---------------------------------------------------------------------- in a process of its own


def backend() -> dict:
    """Of JAX here."""
    import jax

    return {"backend": jax.default_backend()}


def measure(seconds: float, overrides: dict[str, Any], images: int = 50_000) -> dict:
    """Time of a training step with its views made in it, and with views that lie there.

    Args:
        seconds: Duration of each timing.
        overrides: Dotted config field -> value, on top of the recipe ``cifar10_resnet18``.
        images: Number of images held on the device.
    """
    return Pair(overrides, images).measure(seconds)


class Pair:
    """The same train step twice: it makes its views itself, or is given them.

    Attributes:
        making: Steps that make their views from images on the device.
        given: Steps on views that were made beforehand.
    """

    def __init__(self, overrides: dict[str, Any], images: int = 50_000) -> None:
        """Compiles both; arguments as for ``measure``."""
        from cssl_jax import recipes
        from cssl_jax.data.pipeline.prefetch import place_host_batches
        from cssl_jax.experiment import train_state
        from cssl_jax.experiment.experiment import Experiment
        from cssl_jax.runtime import spmd

        with tempfile.TemporaryDirectory() as folder:
            source = _noise(pathlib.Path(folder), images)
            data = {
                "data.source": str(source),
                "data.validation_source": "",
                "data.validation_fraction": 0.1,
                "data.resident": True,
                "runtime.devices": 1,
            }
            config = recipes.override(recipes.load("cifar10_resnet18"), {**data, **overrides})
            experiment = Experiment.from_config(config)
        self._config, mesh, name = config, experiment.mesh, config.runtime.backend
        state = train_state.init_state(experiment.method, experiment.optimizer, experiment.spec, 0)
        constants = spmd.replicate(experiment.pipeline.constants, mesh)
        host_batch = next(place_host_batches(experiment.pipeline, mesh, name, 0, 1))
        first = spmd.data_parallel(experiment.pipeline.make_batch, mesh, name, donate=False)
        fixed = first(np.int32(0), constants, host_batch)
        self.making = Steps(
            experiment, state, experiment.pipeline.make_batch, constants, host_batch
        )
        self.given = Steps(
            experiment, state, lambda step, constants, host_batch: host_batch, {}, fixed
        )

    def measure(self, seconds: float) -> dict[str, Any]:
        """Metrics of three timings of ``seconds`` each, in turn."""
        import jax

        times = [(self.making.time(seconds), self.given.time(seconds)) for _ in range(3)]
        step_ms, fixed_ms = (1000 * float(np.median(column)) for column in zip(*times, strict=True))
        return {
            "device": jax.devices()[0].device_kind,
            "batch_size": self._config.train.batch_size,
            "dtype": self._config.model.dtype,
            "step_ms": step_ms,
            "fixed_ms": fixed_ms,
            "share": 1 - fixed_ms / step_ms,
            "host_ms": 1000 * self.making.host(),
        }


def _noise(folder: pathlib.Path, count: int) -> pathlib.Path:
    """What the pixels are does not change what they cost."""
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    np.savez(folder / "noise.npz", images=images)
    return folder / "noise.npz"


class Steps:
    """Training steps one after another on the same feed."""

    def __init__(
        self, experiment: Any, state: Any, make_batch: Any, constants: Any, host_batch: Any
    ) -> None:
        from cssl_jax.runtime import spmd
        from cssl_jax.step.train_step import make_train_step

        step = make_train_step(
            experiment.method,
            experiment.optimizer,
            experiment.schedule,
            make_batch,
            experiment.step_options,
        )
        self._step = spmd.data_parallel(step, experiment.mesh, "shard_map")
        self._state = spmd.replicate(state, experiment.mesh)
        self._constants, self._feed = constants, host_batch
        self._wait(self.send())

    def send(self) -> Any:
        """Starts one step; its metrics may not be computed yet."""
        self._state, metrics = self._step(self._state, self._constants, self._feed)
        return metrics

    def _wait(self, metrics: Any) -> None:
        import jax

        jax.block_until_ready((self._state, metrics))

    def time(self, seconds: float) -> float:
        """Seconds a step, two in flight."""
        self._wait(self.send())
        start = time.perf_counter()
        latest, count = self.send(), 1
        while time.perf_counter() - start < seconds:
            before, latest = latest, self.send()
            before["loss"].block_until_ready()
            count += 1
        self._wait(latest)
        return (time.perf_counter() - start) / count

    def host(self) -> float:
        """Seconds of the host's a step: what sending it off takes, with nothing waited for."""
        self._wait(self.send())
        start = time.perf_counter()
        for _ in range(DISPATCHED):
            metrics = self.send()
        elapsed = time.perf_counter() - start
        self._wait(metrics)
        return elapsed / DISPATCHED
