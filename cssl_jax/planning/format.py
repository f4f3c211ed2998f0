"""Formats a plan as the text that ``cssl-jax plan`` prints."""

import textwrap
from collections.abc import Iterator

from cssl_jax.modalities.registry import modality_entry
from cssl_jax.planning.plan import GIB, Plan

WIDTH = 100


def plan_text(plan: Plan) -> str:
    """The complete report of a plan."""
    return "\n".join(
        [
            *(*_recipe(plan), ""),
            *(*_memory(plan), ""),
            *(*_largest(plan), ""),
            *(*_flops(plan), ""),
            *_collectives(plan),
            *_warnings(plan),
        ]
    )


def _recipe(plan: Plan) -> Iterator[str]:
    model, batch = plan.config.model, plan.config.train.batch_size
    unit = modality_entry(plan.config.data.modality).unit
    width = "" if model.width == 1 else f" of width {model.width:g}"
    yield (
        f"recipe    {model.encoder}{width}, {model.dtype}, {plan.given.spec.size} {unit}, "
        f"batch {batch} over {plan.devices} device(s), {batch // plan.devices} examples of two "
        "views each"
    )
    yield f"data      {plan.given.note}"


def _memory(plan: Plan) -> Iterator[str]:
    shapes = plan.shapes
    yield f"Memory of one device, {_gib(plan.memory)} available:"
    yield (
        f"  by shapes       {_gib(shapes.held):>9}  held throughout {_gib(shapes.arguments)}; "
        f"{_gib(shapes.peak)} more at the peak"
    )
    if plan.compiled:
        memory = plan.compiled["memory"]
        fixed = memory["arguments"] + memory["results"]
        yield (
            f"  compiled, {plan.compiler:<6}{_gib(fixed + memory['temporaries']):>9}  arguments "
            f"and results {_gib(fixed)}; temporaries {_gib(memory['temporaries'])}; in "
            f"{plan.compiled['seconds']:.0f} s"
        )
    verdict = "fits" if shapes.held <= plan.memory else "does not fit"
    yield f"  by shapes it {verdict}."
    notes = (
        "By shapes: every array of the step lives from the operation that computes it to the last "
        "one that reads it; no fusion, no workspace, no padding."
    )
    if plan.compiled and plan.compiler == "CPU":
        notes += (
            " Compiled: XLA's memory analysis for a CPU. For an accelerator XLA fuses more, but "
            "adds workspaces of convolutions, pads (TPU: channels to 128), and keeps remat, which "
            "it removes on a CPU."
        )
        if plan.config.model.dtype == "bfloat16":
            notes += " A CPU computes bfloat16 in float32, which takes more memory."
    yield from _wrapped(notes)


def _largest(plan: Plan) -> Iterator[str]:
    yield f"Largest batch by shapes in {_gib(plan.memory)}:"
    options = {
        "plain": "",
        "remat": "--model.remat",
        "GradCache": f"--train.micro-batch {plan.micro_batch * plan.devices}",
    }
    for kind, batch in plan.largest.items():
        size = f"{batch:,} ({batch // plan.devices:,} per device)" if batch else "none"
        yield f"  {kind:<10}{size:<28}  {options[kind]}".rstrip()


def _flops(plan: Plan) -> Iterator[str]:
    cost = plan.shapes.cost
    yield "Operations per device and step:"
    yield (
        f"  by formula    {cost.flops / 1e12:>10.4g} TFLOP  encoder and head "
        f"{cost.encoder_flops / 1e12:.4g}, loss {cost.loss_flops / 1e12:.4g}"
    )
    if plan.compiled:
        yield (
            f"  compiled      {plan.compiled['flops'] / 1e12:>10.4g} TFLOP  augmentation, "
            "norms and update included; no padding; loop bodies once"
        )


def _collectives(plan: Plan) -> Iterator[str]:
    cost, traced = plan.shapes.cost, plan.shapes.collectives
    by_formula = {
        "all-gather": cost.all_gather,
        "all-reduce": cost.all_reduce + cost.norm_all_reduce,
        "reduce-scatter": cost.reduce_scatter,
    }
    yield "Bytes between devices per step (result of an all-gather, operand of a reduction):"
    yield f"  {'':<16}{'by formula':>16}{'traced':>16}" + (
        f"{'compiled':>16}" if plan.compiled else ""
    )
    for kind in dict.fromkeys([*by_formula, *traced]):
        line = f"  {kind:<16}{by_formula.get(kind, 0):>16,}{traced[kind]:>16,}"
        if plan.compiled:
            line += f"{plan.compiled['collectives'].get(kind, 0):>16,}"
        yield line
    yield (
        f"  all-reduce: {cost.all_reduce:,} for the gradient, {cost.norm_all_reduce:,} for "
        f"BatchNorm, whose layers wait {cost.waits} times"
    )
    yield f"  sent by each device, with ring algorithms: {cost.sent(plan.devices) / 1e6:,.1f} MB"


def _warnings(plan: Plan) -> Iterator[str]:
    if not plan.warnings:
        return
    yield "\nKnown to cost accuracy:"
    for text in plan.warnings:
        yield textwrap.fill(
            text,
            WIDTH,
            initial_indent="  - ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def _wrapped(text: str) -> Iterator[str]:
    yield textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
