"""What a recipe costs on so many devices, and the largest batch that fits."""

import dataclasses
from collections.abc import Callable
from typing import Any

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.losses.core.similarity import choose_tile
from cssl_jax.planning import formulas
from cssl_jax.planning import jaxpr as program
from cssl_jax.planning.advice import warnings
from cssl_jax.planning.plan import GIB, Plan, Shapes
from cssl_jax.planning.shapes import Input, abstract_mesh, input_of, step_of
from cssl_jax.runtime import spmd, subprocesses

CHILD = "cssl_jax.planning.compile_worker"
MOST = 2**17  # examples a device that are tried next at most
MICRO_BATCH = 32  # examples a device, where the recipe has none of its own
KINDS = ("plain", "remat", "GradCache")


def plan(
    config: Config,
    *,
    devices: int,
    memory_gb: float | None = None,
    compile: bool = True,
    timeout: float = 900.0,
) -> Plan:
    """Counts what one step of a recipe takes on each of so many devices; reads no picture.

    Args:
        config: The run; see ``recipes.load``.
        devices: That share a batch; they need not be here.
        memory_gb: GiB of one device; None asks the device that is here.
        compile: Compile the step too, for the devices here where they suffice, else for as many
            simulated CPUs.
        timeout: Seconds for that.

    Raises:
        UserError: The batch and the devices do not fit each other, or the memory is not known.
        RunError: Compiling failed or took too long.
    """
    if devices < 1 or (memory_gb is not None and not 0 < memory_gb < 1e6):
        raise UserError(
            f"--devices {devices} --memory-gb {memory_gb}; give at least 1 device and a positive "
            "number of GiB"
        )
    config = recipes.canonical(config)
    step_fits(config, devices)
    found = subprocesses.devices(timeout)
    memory = _memory(memory_gb, found)
    given = input_of(config, memory, devices)
    here = found["platform"] != "cpu" and found["count"] >= devices
    # Before anything is traced here: tracing takes hold of an accelerator, which belongs to one.
    told = _compiled(config, devices, here, memory, timeout) if compile else {}
    micro = config.train.micro_batch // devices or MICRO_BATCH
    return Plan(
        config,
        given,
        devices,
        shapes_of(config, devices, given),
        told,
        found["kind"] if here else "CPU",
        memory,
        {kind: largest_batch(config, kind, devices, given, memory, micro) for kind in KINDS},
        micro,
        warnings(config),
    )


def _compiled(
    config: Config, devices: int, here: bool, memory: int, timeout: float
) -> dict[str, Any]:
    """What the child tells of the compiled step."""
    arguments = {
        "config": recipes.to_dict(config),
        "devices": devices,
        "cpu_devices": 0 if here else devices,
        "memory": memory,
    }
    variables = subprocesses.environment(simulated=not here)
    (told,) = subprocesses.run(CHILD, [arguments], variables=variables, timeout=timeout)
    return told


def step_fits(config: Config, devices: int) -> None:
    """Raises UserError where the batch, its parts and the devices do not fit each other."""
    mesh, train = abstract_mesh(devices), config.train
    spmd.micro_batches(train.batch_size, mesh, train.micro_batch)
    spmd.norm_groups(train.batch_size, config.model.norm_group, mesh, train.micro_batch)


def _memory(memory_gb: float | None, found: dict[str, Any]) -> int:
    if memory_gb is not None:
        return int(memory_gb * GIB)
    if found["memory"]:
        return found["memory"]
    raise UserError(
        f"the {found['kind']} here does not tell its memory; give that of the devices that are "
        "planned for, e.g. --memory-gb 16"
    )


def shapes_of(config: Config, devices: int, given: Input) -> Shapes:
    """What is known of a step without compiling it.

    Raises:
        UserError: The batch and the devices do not fit each other.
    """
    mesh = abstract_mesh(devices)
    jaxpr = program.device_program(step_of(config, mesh, given), mesh)
    return Shapes(
        program.argument_bytes(jaxpr),
        program.peak_bytes(jaxpr),
        program.collective_bytes(jaxpr),
        cost_of(config, devices, given),
    )


def held_bytes(config: Config, devices: int, given: Input) -> int:
    """``Shapes.held`` alone, of any encoder."""
    mesh = abstract_mesh(devices)
    jaxpr = program.device_program(step_of(config, mesh, given), mesh)
    return program.argument_bytes(jaxpr) + program.peak_bytes(jaxpr)


def cost_of(config: Config, devices: int, given: Input) -> formulas.Cost:
    """By hand, for a recipe."""
    batch, micro_batch = config.train.batch_size, config.train.micro_batch
    tile = choose_tile(config.method.tile_size, 2 * batch // devices, 2 * batch)
    return formulas.cost(
        config.model,
        size=given.spec.size,
        channels=given.spec.channels,
        batch=batch,
        devices=devices,
        tiled=tile is not None,
        micro_batches=batch // micro_batch if micro_batch else 1,
    )


# ----------------------------------------------------------------------------------- largest batch


def with_step(config: Config, kind: str, batch: int, micro_batch: int) -> Config:
    """The recipe with another global batch and another kind of step."""
    train = dataclasses.replace(
        config.train, batch_size=batch, micro_batch=micro_batch if kind == "GradCache" else 0
    )
    # Groups of BatchNorm take no memory, and need not divide the batches that are tried.
    model = dataclasses.replace(config.model, remat=kind == "remat", norm_group=0)
    return dataclasses.replace(config, train=train, model=model)


def largest_batch(
    config: Config, kind: str, devices: int, given: Input, memory: int, micro: int
) -> int:
    """Largest global batch whose step fits, by shapes; of whole micro-batches with GradCache."""
    unit = devices * (micro if kind == "GradCache" else 1)

    def held(count: int) -> int:
        tried = with_step(config, kind, count * unit, micro * devices)
        return shapes_of(tried, devices, given).held

    return unit * largest_count(held, memory, start=2 if kind == "GradCache" else 8)


def largest_count(held: Callable[[int], int], memory: int, start: int) -> int:
    """Largest count with ``held(count) <= memory`` of a growing, nearly straight function.

    Each call traces a program, so it is called at points of a line through the last two.
    """
    known: dict[int, int] = {}

    def at(count: int) -> int:
        if count not in known:
            known[count] = held(count)
        return known[count]

    low, high = 0, 0  # fits; does not (0: not known)
    points = [start, 2 * start]
    while True:
        for count in points:
            if at(count) <= memory:
                low = max(low, count)
            else:
                high = min(high or count, count)
        if high and high - low <= 1:
            return low
        a, b = sorted(known)[-2:] if not high else sorted(known, key=lambda n: abs(n - high))[:2]
        slope = max((at(b) - at(a)) / (b - a), 1.0)
        guess = int(b + (memory - at(b)) // slope)
        guess = min(max(guess, low + 1), (high - 1) if high else 2 * max(known) + MOST)
        points = [guess] if guess == low + 1 else [guess, guess + 1]
        points = [count for count in points if count not in known] or [(low + high) // 2]
