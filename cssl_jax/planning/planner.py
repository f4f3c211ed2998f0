"""Cost of a recipe on a number of devices, and the largest batch that fits their memory."""

from collections.abc import Callable
from typing import Any

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders, data_splits
from cssl_jax.losses.core.similarity import choose_tile
from cssl_jax.methods.registry import method_entry
from cssl_jax.planning import formulas
from cssl_jax.planning import jaxpr as program
from cssl_jax.planning.config_warnings import warnings
from cssl_jax.planning.plan import GIB, Plan, Shapes
from cssl_jax.planning.sequence_formulas import (
    BERTS,
    SEQUENCE_ENCODERS,
    layers_cost,
    sequence_layers,
)
from cssl_jax.planning.shapes import DataShapes, abstract_mesh, abstract_step, data_shapes
from cssl_jax.planning.vit_formulas import VITS, vit_layers
from cssl_jax.runtime import spmd, subprocesses

CHILD = "cssl_jax.planning.compile_worker"
MAX_INCREASE = 2**17  # limit on the extrapolation to the next count that is tried
MICRO_BATCH = 32  # examples per device, for recipes without train.micro_batch
KINDS = ("plain", "remat", "GradCache")


def plan(
    config: Config,
    *,
    devices: int,
    memory_gb: float | None = None,
    compile: bool = True,
    timeout: float = 900.0,
) -> Plan:
    """Counts memory, operations and traffic of one step on each device; reads no image.

    Args:
        config: Config of the run; see ``recipes.load``.
        devices: Number of devices that a batch is split over; this machine need not have them.
        memory_gb: Memory of one device in GiB; None takes it from this machine's device.
        compile: Whether to compile the step too: for this machine's accelerators if there are
            enough, else for as many simulated CPU devices.
        timeout: Seconds for each child process (device query, compilation).

    Raises:
        UserError: The batch does not divide over the devices, or the memory is unknown.
        RunError: Compiling failed or took too long.
    """
    if devices < 1 or (memory_gb is not None and not 0 < memory_gb < 1e6):
        raise UserError(
            f"--devices {devices} --memory-gb {memory_gb}; give at least 1 device and a positive "
            "number of GiB"
        )
    config = recipes.canonical(config)
    step_fits(config, devices)
    machine = subprocesses.devices(timeout)
    memory = _memory(memory_gb, machine)
    given = data_shapes(config, memory, devices)
    on_accelerator = machine["platform"] != "cpu" and machine["count"] >= devices
    # The child runs before anything is traced here: tracing makes this process the only one that
    # can use the accelerator.
    compiled = _compile(config, devices, on_accelerator, memory, timeout) if compile else {}
    micro = config.train.micro_batch // devices or MICRO_BATCH
    return Plan(
        config,
        given,
        devices,
        shapes_of(config, devices, given),
        compiled,
        machine["kind"] if on_accelerator else "CPU",
        memory,
        {kind: largest_batch(config, kind, devices, given, memory, micro) for kind in KINDS},
        micro,
        warnings(config),
    )


def _compile(
    config: Config, devices: int, on_accelerator: bool, memory: int, timeout: float
) -> dict[str, Any]:
    """Compiles the step in a child process and returns the results of ``compile_worker.main``."""
    arguments = {
        "config": recipes.to_dict(config),
        "devices": devices,
        "cpu_devices": 0 if on_accelerator else devices,
        "memory": memory,
    }
    variables = subprocesses.environment(simulated=not on_accelerator)
    (results,) = subprocesses.run(CHILD, [arguments], variables=variables, timeout=timeout)
    return results


def step_fits(config: Config, devices: int) -> None:
    """Checks that batch, micro-batches and BatchNorm groups divide over the devices.

    Raises:
        UserError: They do not; the message names sizes that do.
    """
    mesh, train = abstract_mesh(devices), config.train
    spmd.micro_batches(train.batch_size, mesh, train.micro_batch)
    spmd.norm_groups(train.batch_size, config.model.norm_group, mesh, train.micro_batch)


def _memory(memory_gb: float | None, machine: dict[str, Any]) -> int:
    """Memory of one device in bytes: the one given in GiB, else that of this machine's device."""
    if memory_gb is not None:
        return int(memory_gb * GIB)
    if machine["memory"]:
        return int(machine["memory"])
    raise UserError(
        f"this machine's {machine['kind']} does not report its memory; give the memory of one "
        "device to plan for, e.g. --memory-gb 16"
    )


def shapes_of(config: Config, devices: int, given: DataShapes) -> Shapes:
    """Sizes of a step that are known without compiling it.

    Args:
        config: Config of the run.
        devices: Number of devices that a batch is split over.
        given: Shapes and pipeline of the run's data.

    Raises:
        UserError: The batch does not divide over the devices, or the formulas lack the encoder.
    """
    mesh = abstract_mesh(devices)
    jaxpr = program.device_program(abstract_step(config, mesh, given), mesh)
    return Shapes(
        program.argument_bytes(jaxpr),
        program.peak_bytes(jaxpr),
        program.collective_bytes(jaxpr),
        cost_of(config, devices, given),
    )


def held_bytes(config: Config, devices: int, given: DataShapes) -> int:
    """``Shapes.held`` of a step in bytes; unlike ``shapes_of``, for any encoder."""
    mesh = abstract_mesh(devices)
    jaxpr = program.device_program(abstract_step(config, mesh, given), mesh)
    return program.argument_bytes(jaxpr) + program.peak_bytes(jaxpr)


def cost_of(config: Config, devices: int, given: DataShapes) -> formulas.Cost:
    """Cost of a recipe's step on one device, by closed formulas."""
    sequences = config.model.encoder in SEQUENCE_ENCODERS
    if not sequences and config.model.encoder not in VITS:
        formulas.check_known(config.model.encoder)
    batch, micro_batch = config.train.batch_size, config.train.micro_batch
    spec: Any = given.spec
    step = method_entry(config.method.name).cost(config)
    rows = step.views * batch
    tile = choose_tile(step.tile_size, rows // devices, rows) if step.contrasts else None
    method = builders.make_method(config, abstract_mesh(1))
    shape = formulas.StepShape(
        batch=batch,
        devices=devices,
        tiled=tile is not None,
        micro_batches=batch // micro_batch if micro_batch else 1,
        views=step.views,
        targets=step.targets,
        contrasts=step.contrasts,
        heads=formulas.heads_of(method, config.model),
        local_views=step.local.count if step.local else 0,
        prototypes=step.prototypes,
        averaged=step.averaged,
        metrics=step.metrics,
        spread=step.spread,
        scaled=step.scaled,
    )
    if sequences:
        if config.model.encoder in BERTS:
            steps, channels = spec.size, spec.vocabulary
        else:
            view = data_splits.modality_of(config).zeros(spec, spec.size, 1, 1)["values"]
            steps, channels = view.shape[2:]
        layers, features = sequence_layers(config.model, steps, channels)
        return layers_cost(config.model, layers, features, shape, steps=steps, loss=step.loss)
    local_size = step.local.size if step.local else 0
    if config.model.encoder in VITS:
        layers, features = vit_layers(config.model, spec.size, spec.channels, step.visible)
        local, _ = vit_layers(config.model, local_size, spec.channels)
        patches = (spec.size // config.model.patch) ** 2
        return layers_cost(
            config.model, layers, features, shape, steps=patches, loss=step.loss, local=local
        )
    return formulas.cost(
        config.model, shape, size=spec.size, channels=spec.channels, local_size=local_size
    )


# ----------------------------------------------------------------------------------- largest batch


def with_step(config: Config, kind: str, batch: int, micro_batch: int) -> Config:
    """The config with another global batch and a kind of step from ``KINDS``.

    Args:
        config: Config of the run.
        kind: "plain", "remat" or "GradCache".
        batch: Global batch size in examples.
        micro_batch: Global micro-batch size in examples; used by GradCache only.
    """
    return config.replace(
        {
            "train.batch_size": batch,
            "train.micro_batch": micro_batch if kind == "GradCache" else 0,
            "model.remat": kind == "remat",
            # BatchNorm groups take no memory, and need not divide the batch sizes that are tried.
            "model.norm_group": 0,
        }
    )


def largest_batch(
    config: Config, kind: str, devices: int, given: DataShapes, memory: int, micro: int
) -> int:
    """Largest global batch whose step fits the memory by array shapes; 0 if none does.

    Args:
        config: Config of the run.
        kind: Kind of step, see ``with_step``.
        devices: Number of devices that a batch is split over.
        given: Shapes and pipeline of the run's data.
        memory: Memory of one device in bytes.
        micro: Examples per device and micro-batch; the result is a multiple with GradCache.
    """
    unit = devices * (micro if kind == "GradCache" else 1)

    def held(count: int) -> int:
        tried = with_step(config, kind, count * unit, micro * devices)
        return shapes_of(tried, devices, given).held

    return unit * largest_count(held, memory, start=2 if kind == "GradCache" else 8)


def largest_count(held: Callable[[int], int], memory: int, start: int) -> int:
    """Largest count with ``held(count) <= memory``; 0 if ``held(1)`` exceeds it.

    Each call of ``held`` traces a program. The secant method therefore chooses the next counts,
    from the line through two known points, until two neighbours bracket the limit.

    Args:
        held: Bytes for a count; increases with it, nearly linearly.
        memory: Limit in bytes.
        start: First count to try.
    """
    sizes: dict[int, int] = {}  # count -> bytes

    def size_at(count: int) -> int:
        if count not in sizes:
            sizes[count] = held(count)
        return sizes[count]

    low, high = 0, 0  # largest count that fits; smallest that does not (0: none yet)
    points = [start, 2 * start]
    while True:
        for count in points:
            if size_at(count) <= memory:
                low = max(low, count)
            else:
                high = min(high or count, count)
        if high and high - low <= 1:
            return low
        a, b = sorted(sizes)[-2:] if not high else sorted(sizes, key=lambda n: abs(n - high))[:2]
        slope = max((size_at(b) - size_at(a)) / (b - a), 1.0)
        guess = int(b + (memory - size_at(b)) // slope)
        guess = min(max(guess, low + 1), (high - 1) if high else 2 * max(sizes) + MAX_INCREASE)
        # Trying the next count too ends the search where the guess is exact.
        points = [guess] if guess == low + 1 else [guess, guess + 1]
        points = [count for count in points if count not in sizes] or [(low + high) // 2]
