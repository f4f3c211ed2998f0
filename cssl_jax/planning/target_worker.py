"""In a process of its own: compiles a step for accelerators that are not here."""

import time
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cssl_jax import recipes
from cssl_jax.planning import compiled, kernels
from cssl_jax.planning.gpu_targets import TARGET_CONFIGS
from cssl_jax.planning.shapes import Step, input_of, step_of
from cssl_jax.runtime import spmd, subprocesses

PyTree = Any


def main(
    tell: Callable[..., None],
    *,
    config: dict[str, Any],
    platform: str,
    model: str,
    topology: str,
    memory: int,
) -> None:
    """Tells what the compiled step of one device needs and consists of; runs nothing.

    Args:
        tell: Reports to the parent, see ``subprocesses.serve``.
        config: The run, as ``recipes.to_dict`` gives it.
        platform: "tpu" or "cuda".
        model: Key of ``chips.TPUS`` or ``chips.GPUS``.
        topology: Chips along each axis.
        memory: Bytes of one device, see ``input_of``.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    known = recipes.from_dict(config)
    mesh = spmd.make_mesh(devices(platform, model, topology))
    step = step_of(known, mesh, input_of(known, memory, mesh.size))
    start = time.monotonic()
    made = compile_step(step, mesh)
    text = made.as_text()
    tell(
        devices=mesh.size,
        memory=compiled.memory(made),
        flops=compiled.flops(made),
        bytes=compiled.bytes_accessed(made),
        collectives=_collectives(text, mesh.size),
        collective_counts=compiled.collective_counts(text),
        origins=kernels.by_origin(text),
        loops=kernels.loops(text),
        seconds=time.monotonic() - start,
    )


def _collectives(text: str, count: int) -> dict[str, int]:
    """Bytes by kind; empty where some are in a loop, whose length a TPU's program does not tell."""
    try:
        return dict(compiled.collective_bytes(text, count))
    except ValueError:
        return {}


def devices(platform: str, model: str, topology: str) -> list[jax.Device]:
    """Descriptions of the devices of a topology, which only compilers can use."""
    if platform == "tpu":
        found = topologies.get_topology_desc(f"{model}:{topology}", platform="tpu")
    else:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=TARGET_CONFIGS[model], topology=f"1x{topology}x1"
        )
    return list(found.devices)


def compile_step(step: Step, mesh: Mesh) -> Any:
    """Compiles a step for a mesh of described devices."""
    whole, split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))

    def shaped(tree: PyTree, sharding: NamedSharding) -> PyTree:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    function = spmd.data_parallel(step.function, mesh, split_constants=step.split_constants)
    return function.lower(  # type: ignore[attr-defined]
        shaped(step.state, whole),
        shaped(step.constants, split if step.split_constants else whole),
        shaped(step.host_batch, split),
    ).compile()


if __name__ == "__main__":
    subprocesses.serve(main)
