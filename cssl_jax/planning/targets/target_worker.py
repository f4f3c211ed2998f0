"""Child process that compiles a step for accelerators that this machine does not have."""

import time
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cssl_jax import recipes
from cssl_jax.planning import compiled, jaxpr
from cssl_jax.planning.shapes import Step, abstract_step, data_shapes
from cssl_jax.planning.targets import kernels
from cssl_jax.planning.targets.gpu_targets import TARGET_CONFIGS
from cssl_jax.runtime import spmd, subprocesses

PyTree = Any


def main(
    report: Callable[..., None],
    *,
    config: dict[str, Any],
    platform: str,
    model: str,
    topology: str,
    memory: int,
) -> None:
    """Reports memory, cost, collectives and operations of one device's program; runs nothing.

    Args:
        report: Sends keyword arguments to the parent process, see ``subprocesses.serve``.
        config: Config of the run, as ``recipes.to_dict`` returns it.
        platform: Platform of the target: "tpu" or "cuda".
        model: Key of ``chips.TPUS`` or ``chips.GPUS``.
        topology: Number of chips along each axis, such as "4x8".
        memory: Memory of one device in bytes, see ``data_shapes``.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    run_config = recipes.from_dict(config)
    mesh = spmd.make_mesh(devices(platform, model, topology))
    step = abstract_step(run_config, mesh, data_shapes(run_config, memory, mesh.size))
    start = time.monotonic()
    program = compile_step(step, mesh)
    text = program.as_text()
    origins = kernels.by_origin(text)
    report(
        devices=mesh.size,
        memory=compiled.memory(program),
        **(compiled.cost(program) or _counted(step, mesh, origins)),
        collectives=_collectives(text, mesh.size),
        collective_counts=compiled.collective_counts(text),
        origins=origins,
        loops=kernels.loops(text),
        seconds=time.monotonic() - start,
    )


def _counted(step: Step, mesh: Mesh, origins: dict[str, dict[str, float]]) -> dict[str, float]:
    """Operations of the traced program's products, and bytes of the compiled one's operations."""
    return {
        "flops": float(jaxpr.product_flops(jaxpr.device_program(step, mesh))),
        "bytes": sum(part["bytes"] for part in origins.values()),
    }


def _collectives(text: str, count: int) -> dict[str, int]:
    """Bytes by kind; empty if one is in a loop, as TPU programs do not contain trip counts."""
    try:
        return dict(compiled.collective_bytes(text, count))
    except ValueError:
        return {}


def devices(platform: str, model: str, topology: str) -> list[jax.Device]:
    """Device descriptions of a topology, for compiling only.

    Args:
        platform: Platform of the target: "tpu" or "cuda".
        model: Key of ``chips.TPUS`` or ``chips.GPUS``.
        topology: Number of chips along each axis, such as "4x8".
    """
    if platform == "tpu":
        # A chip is one device, as where programs run; without it each of v4's two cores would be.
        options = {"chip_config_name": "megacore"} if model == "v4" else {}
        description = topologies.get_topology_desc(f"{model}:{topology}", "tpu", **options)
    else:
        description = topologies.get_topology_desc(
            platform="cuda", target_config=TARGET_CONFIGS[model], topology=f"1x{topology}x1"
        )
    return list(description.devices)


def compile_step(step: Step, mesh: Mesh) -> Any:
    """Compiles a step for a mesh of device descriptions, see ``devices``."""
    replicated, split = (
        NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data"))
    )

    def shaped(tree: PyTree, sharding: NamedSharding) -> PyTree:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    function = spmd.data_parallel(step.function, mesh, split_constants=step.split_constants)
    return function.lower(  # type: ignore[attr-defined]
        shaped(step.state, replicated),
        shaped(step.constants, split if step.split_constants else replicated),
        shaped(step.host_batch, split),
    ).compile()


if __name__ == "__main__":
    subprocesses.serve(main)
