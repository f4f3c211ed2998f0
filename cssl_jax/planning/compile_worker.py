"""Child process that compiles a step for simulated CPU devices or for this machine's devices."""

import time
from collections.abc import Callable
from typing import Any

import jax

from cssl_jax import recipes
from cssl_jax.planning import compiled
from cssl_jax.planning.shapes import abstract_step, data_shapes
from cssl_jax.runtime import spmd, subprocesses


def main(
    report: Callable[..., None],
    *,
    config: dict[str, Any],
    devices: int,
    cpu_devices: int,
    memory: int | None,
) -> None:
    """Reports memory, operations and collective bytes of the compiled step; runs nothing.

    Args:
        report: Sends keyword arguments to the parent process, see ``subprocesses.serve``.
        config: Config of the run, as ``recipes.to_dict`` returns it.
        devices: Number of devices to compile for.
        cpu_devices: Number of CPU devices to simulate; 0 uses this machine's devices.
        memory: Memory of one device in bytes, see ``data_shapes``.
    """
    if cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    run_config = recipes.from_dict(config)
    # A program from the cache may lack the memory analysis and the text that are reported.
    jax.config.update("jax_enable_compilation_cache", False)
    start = time.monotonic()
    mesh = spmd.make_mesh(jax.devices()[:devices])
    step = abstract_step(run_config, mesh, data_shapes(run_config, memory, devices))
    function = spmd.data_parallel(step.function, mesh, split_constants=step.split_constants)
    program = function.lower(step.state, step.constants, step.host_batch).compile()  # type: ignore[attr-defined]
    report(
        memory=compiled.memory(program),
        flops=compiled.cost(program)["flops"],
        collectives=compiled.collective_bytes(program.as_text(), devices),
        seconds=time.monotonic() - start,
    )


if __name__ == "__main__":
    subprocesses.serve(main)
