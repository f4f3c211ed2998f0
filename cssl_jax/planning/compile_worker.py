"""In a process of its own: compiles a step for devices that are simulated, or here."""

import time
from collections.abc import Callable
from typing import Any

import jax

from cssl_jax import recipes
from cssl_jax.planning import compiled
from cssl_jax.planning.shapes import input_of, step_of
from cssl_jax.runtime import spmd, subprocesses


def main(
    tell: Callable[..., None],
    *,
    config: dict[str, Any],
    devices: int,
    cpu_devices: int,
    memory: int | None,
) -> None:
    """Tells what the compiled step needs; runs nothing.

    Args:
        tell: Reports to the parent, see ``subprocesses.serve``.
        config: Of the run, as ``recipes.to_dict`` gives it.
        devices: To compile for.
        cpu_devices: To simulate; 0 takes what there is.
        memory: Bytes of one device, see ``input_of``.
    """
    if cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    known = recipes.from_dict(config)
    # A program from the cache need not tell its memory and its text.
    jax.config.update("jax_enable_compilation_cache", False)
    start = time.monotonic()
    mesh = spmd.make_mesh(jax.devices()[:devices])
    step = step_of(known, mesh, input_of(known, memory, devices))
    function = spmd.data_parallel(step.function, mesh, split_constants=step.split_constants)
    made = function.lower(step.state, step.constants, step.host_batch).compile()  # type: ignore[attr-defined]
    tell(
        memory=compiled.memory(made),
        flops=compiled.flops(made),
        collectives=compiled.collective_bytes(made.as_text(), devices),
        seconds=time.monotonic() - start,
    )


if __name__ == "__main__":
    subprocesses.serve(main)
