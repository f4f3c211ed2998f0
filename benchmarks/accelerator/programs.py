"""Train steps of a recipe, compiled for one device and fed from its own memory."""

import dataclasses
import time
from typing import Any

import numpy as np

from accelerator.recorder import seconds_per_call


@dataclasses.dataclass
class Program:
    """A compiled train step with its state.

    Attributes:
        compiled: ``(state, constants, feed) -> (state, metrics)``; the state is donated.
        state: Current train state, on the device.
        first: The state before the first step, on the host.
        host_batch: uint8 views [N, 2, size, size, 3] on the device.
        views: Views per step, 2 N.
        compile_s: Seconds to compile.
    """

    compiled: Any
    state: Any
    first: Any
    host_batch: Any
    views: int
    compile_s: float

    def step(self) -> Any:
        """Takes one step; returns its metrics, which may not be computed yet."""
        self.state, metrics = self.compiled(self.state, {}, self.host_batch)
        return metrics

    def restart(self) -> None:
        """Puts the first state back on the device."""
        import jax

        self.state = jax.tree.map(jax.numpy.asarray, self.first)

    def timed(self, seconds: float) -> dict[str, float]:
        """Time and memory of the step, ready for JSON; sizes in bytes."""
        import jax

        per_step = seconds_per_call(lambda: self.step()["loss"], seconds)
        memory = self.compiled.memory_analysis()
        stats = jax.devices()[0].memory_stats() or {}
        return {
            "ms": 1e3 * per_step,
            "views_per_s": self.views / per_step,
            "batch_size": self.views // 2,
            "temporaries": memory.temp_size_in_bytes,
            "arguments": memory.argument_size_in_bytes,
            "peak": stats.get("peak_bytes_in_use", 0),
            "compile_s": self.compile_s,
        }


def compile_recipe(
    name: str,
    overrides: dict[str, Any],
    *,
    size: int,
    images: int = 50_000,
    options: dict[str, Any] | None = None,
) -> Program:
    """Compiles the train step of a recipe for the first device; its views are noise, made there.

    Args:
        name: Recipe.
        overrides: Dotted config field -> value, on top of the recipe.
        size: Side of the views, px.
        images: Number of training images that the schedule is computed for.
        options: Compiler options.
    """
    import jax
    import jax.numpy as jnp
    from loss.joint_device import noise

    from cssl_jax import recipes
    from cssl_jax.data.input_spec import ImageSpec
    from cssl_jax.data.sampler import Sampler
    from cssl_jax.experiment import train_state
    from cssl_jax.experiment.computation import computation_of
    from cssl_jax.optim.trust_metrics import make_trust_ratio_metrics
    from cssl_jax.runtime import spmd

    config = recipes.override(recipes.load(name), overrides)
    mesh = spmd.make_mesh(jax.devices()[:1])
    sampler = Sampler(images, config.train.batch_size, config.train.seed)
    computation = computation_of(config, mesh, sampler)
    step = computation.train_step(
        lambda _, constants, host_batch: {
            "views": {"main": host_batch["views"].astype(jnp.float32) / 255}
        },
        extra_metrics=make_trust_ratio_metrics(config.optimizer, computation.total_steps),
    )
    mapped = spmd.data_parallel(step, mesh)
    shape = (config.train.batch_size, 2, size, size, 3)
    host_batch = jax.jit(lambda: {"views": noise(shape)})()
    spec = ImageSpec(size, 3, (0.0,) * 3, (1.0,) * 3)
    state = spmd.replicate(
        train_state.init_state(computation.method, computation.optimizer, spec, 0), mesh
    )
    first = jax.tree.map(np.asarray, state)
    start = time.perf_counter()
    compiled = mapped.lower(state, {}, host_batch).compile(compiler_options=options or {})
    elapsed = time.perf_counter() - start
    return Program(compiled, state, first, host_batch, 2 * config.train.batch_size, elapsed)
