"""Command `plan`: cost of a recipe's step, and the largest batch that fits."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.cli.parsing import Recipe, fit_warmup, parse, recipe_first
from cssl_jax.config import Config
from cssl_jax.planning.scaling import Hardware, plan_scaling


@dataclasses.dataclass(frozen=True)
class Plan:
    """Compute the cost of a recipe's step on given devices, and the largest batch that fits.

    Attributes:
        recipe: Name of a recipe (see `cssl-jax recipes`), or a .py or .json file; its values are
            the defaults of the other options.
        devices: Number of devices that share a batch; several numbers give a table by formulas
            alone.
        target: Accelerators to compile the step for, present or not: tpu:v5e:4x8 (or v4, v5p, v6e;
            chips along each axis), cuda:h100 (or a100, h200), cuda:h100:8 for eight. "" compiles
            for the devices that are present.
        largest: With a target: find the largest batch of each kind of step, by compiling two
            sizes of each.
        views_per_core: With a target: views per second that one host core makes, as measured by
            bench-input; prints the number of cores that feed the target. 0 omits it.
        memory_gb: Memory of one device in GiB; by default that of the device that is present.
        compile: Compile the step as well, for the devices that are present or for simulated CPUs.
        timeout: Maximum time in seconds for compiling.
        per_device: Examples per device in the table; 0 divides the recipe's batch.
        hardware: Rates that the table assumes for a device.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: Recipe
    devices: tuple[int, ...] = (1,)
    target: str = ""
    largest: bool = False
    views_per_core: float = 0.0
    memory_gb: float | None = None
    compile: bool = True
    timeout: float = 900.0
    per_device: int = 0
    hardware: Annotated[Hardware, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=Hardware
    )
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def run(argv: Sequence[str]) -> int:
    """`cssl-jax plan RECIPE [--devices 32 | --target tpu:v5e:4x8] [--section.field VALUE ...]`."""
    from cssl_jax.planning.format import plan_text
    from cssl_jax.planning.planner import plan

    config = recipe_first("plan", "--devices 32", argv)
    options = parse(Plan, "plan", argv, Plan(tyro.MISSING, config=config))
    chosen = fit_warmup(options.config, config, argv)
    if options.target:
        from cssl_jax.planning.targets.target_plan import plan_target
        from cssl_jax.planning.targets.target_text import report

        planned = plan_target(
            chosen,
            options.target,
            largest=options.largest,
            views_per_core=options.views_per_core,
            timeout=options.timeout,
        )
        print(report(planned))
        return 0
    if len(options.devices) == 1 and not options.per_device:
        made = plan(
            chosen,
            devices=options.devices[0],
            memory_gb=options.memory_gb,
            compile=options.compile,
            timeout=options.timeout,
        )
        print(plan_text(made))
        return 0
    print(
        plan_scaling(
            chosen, options.devices, per_device=options.per_device, hardware=options.hardware
        )
    )
    return 0
