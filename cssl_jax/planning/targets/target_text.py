"""Formats a plan for a target as the text that ``cssl-jax plan --target`` prints."""

from collections.abc import Iterator

from cssl_jax.planning.targets.target_plan import TargetPlan

GB = 1e9


def report(plan: TargetPlan) -> str:
    """The complete report of a plan for a target."""
    parts = (_recipe(plan), _memory(plan), _bounds(plan), _collectives(plan), _origins(plan))
    return "\n\n".join("\n".join(part) for part in parts)


def _recipe(plan: TargetPlan) -> Iterator[str]:
    model, batch, size = (
        plan.config.model,
        plan.config.train.batch_size,
        getattr(plan.config.data, "size", 0),
    )
    width = "" if model.width == 1 else f" of width {model.width:g}"
    chips = f"{plan.target.chips} chip{'s' * (plan.target.chips > 1)}"
    yield (
        f"recipe    {model.encoder}{width}, {model.dtype}, {f'{size} px, ' if size else ''}"
        f"batch {batch}"
    )
    yield (
        f"target    {plan.target.name}: {chips}; compiled in "
        f"{plan.compiled['seconds']:.0f} s, not run"
    )


def _memory(plan: TargetPlan) -> Iterator[str]:
    memory = plan.compiled["memory"]
    verdict = "fits" if plan.held <= plan.memory else "DOES NOT FIT"
    yield (
        f"Memory per device: {plan.held / GB:.2f} GB of {plan.memory / GB:.0f} GB "
        f"({100 * plan.held / plan.memory:.0f} %), {verdict}"
    )
    yield f"  temporaries {memory['temporaries'] / GB:.2f} GB"
    yield f"  arguments   {memory['arguments'] / GB:.2f} GB (state, constants, rows of the batch)"
    for kind, batch in plan.largest.items():
        yield f"  largest batch, {kind:<10}{batch:>9,}  from two compiled sizes"


def _bounds(plan: TargetPlan) -> Iterator[str]:
    chip, compiled = plan.target.chip, plan.compiled
    amounts = {
        "compute": (f"{compiled['flops'] / 1e12:.3g} TFLOP", f"{chip.flops / 1e12:.0f} TFLOP/s"),
        "memory bandwidth": (
            f"{compiled['bytes'] / GB:.3g} GB",
            f"{chip.bandwidth / GB:,.0f} GB/s",
        ),
        "interconnect": (f"{plan.sent / GB:.3g} GB", f"{chip.interconnect / GB:.0f} GB/s"),
    }
    yield f"Lower bounds of one step ({chip.source}):"
    yield f"  {'':<18}{'per device':>14}{'stated per chip':>18}{'bound':>12}"
    for name, seconds in plan.bounds.items():
        amount, rate = amounts[name]
        yield f"  {name:<18}{amount:>14}{rate:>18}{1e3 * seconds:>9.2f} ms"
    views = plan.views_per_second
    yield (
        f"  at most {views / plan.target.chips:,.0f} views/s per chip, {views:,.0f} in total, "
        f"limited by {max(plan.bounds, key=lambda name: plan.bounds[name])}"
    )
    yield "  As XLA counts them: loop bodies once; bytes are an upper bound on the memory traffic."
    if plan.views_per_core:
        yield (
            f"  hosts: {views / plan.views_per_core:,.0f} cores supply these views at "
            f"{plan.views_per_core:,.0f} views/s per core"
        )


def _collectives(plan: TargetPlan) -> Iterator[str]:
    counts, sizes = plan.compiled["collective_counts"], plan.compiled["collectives"]
    if not counts:
        yield "Collectives: none"
        return
    yield "Collectives per step (result of an all-gather, operand of a reduction):"
    for kind, count in sorted(counts.items()):
        yield f"  {kind:<20}{count:>6}{sizes.get(kind, 0) / 1e6:>12,.2f} MB"


def _origins(plan: TargetPlan) -> Iterator[str]:
    origins, loops = plan.compiled["origins"], plan.compiled["loops"]
    total = sum(counts["kernels"] for counts in origins.values())
    yield f"Operations of the compiled program by origin, {total:.0f} in total:"
    for name, counts in origins.items():
        yield f"  {name:<20}{counts['kernels']:>6.0f}{counts['bytes'] / GB:>12.3f} GB"
    yield (
        f"  loops {loops['loops']}, with known trip count {loops['loops of known length']}; "
        f"conditionals {loops['conditionals']}"
    )
