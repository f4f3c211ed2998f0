"""What a step's program says of itself before XLA: bytes alive, and bytes between devices."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import Literal
from jax.sharding import Mesh, PartitionSpec

from cssl_jax.planning.shapes import Step
from cssl_jax.runtime import spmd

# JAX's name, the name in compiled programs, and whether the larger side is the result.
COLLECTIVES = {
    "psum": ("all-reduce", False),
    "all_gather": ("all-gather", True),
    "reduce_scatter": ("reduce-scatter", False),
    "ppermute": ("collective-permute", False),
    "all_to_all": ("all-to-all", False),
}
SHARING = ("reshape", "squeeze", "expand_dims", "optimization_barrier", "stop_gradient")
Jaxpr = Any


def device_program(step: Step, mesh: Mesh) -> Jaxpr:
    """The program of one device: a jaxpr with the shapes that it sees. Compiles nothing."""
    specs = spmd.argument_specs(step.split_constants)
    mapped = jax.shard_map(
        step.function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
    )
    (equation,) = jax.make_jaxpr(mapped)(step.state, step.constants, step.host_batch).jaxpr.eqns
    return equation.params["jaxpr"]


def argument_bytes(jaxpr: Jaxpr) -> int:
    """Of what the program is given: the state, constants, and this device's rows."""
    return sum(_bytes(v) for v in (*jaxpr.invars, *jaxpr.constvars))


def peak_bytes(jaxpr: Jaxpr) -> int:
    """Most bytes alive beside the arguments, were its operations run one by one as written.

    An array lives from the operation that makes it to the last that reads it. A compiler that
    fuses operations holds less; one that needs workspaces or pads holds more.
    """
    equations = _needed(jaxpr)
    same: dict[Any, Any] = {}  # what shares the memory of an earlier array
    for equation in equations:
        if _shares(equation):
            same |= {
                made: same.get(given, given)
                for made, given in zip(equation.outvars, equation.invars, strict=False)
                if not isinstance(given, Literal)
            }

    def arrays(variables: Any) -> Iterator[Any]:
        return (same.get(v, v) for v in variables if not isinstance(v, Literal))

    last = {v: i for i, equation in enumerate(equations) for v in arrays(equation.invars)}
    last |= dict.fromkeys(arrays(jaxpr.outvars), len(equations))
    dying: dict[int, list[Any]] = {}
    for variable, i in last.items():
        dying.setdefault(i, []).append(variable)
    alive: dict[Any, int] = {}
    held = worst = 0
    for i, equation in enumerate(equations):
        made = {v: _bytes(v) for v in equation.outvars if v in last}
        inside = max(map(peak_bytes, _inner(equation)), default=0)
        loop = equation.primitive.name in ("scan", "while")  # results stand beside the body
        both = sum(made.values()) + inside if loop else max(sum(made.values()), inside)
        worst = max(worst, held + both)
        alive |= made
        held += sum(made.values())
        held -= sum(alive.pop(v, 0) for v in dying.get(i, ()))
    return worst


def _shares(equation: Any) -> bool:
    """Whether its results are the arrays that it is given, seen otherwise."""
    name = equation.primitive.name
    grows = [v.aval.size for v in equation.outvars] != [v.aval.size for v in equation.invars[:1]]
    return name in SHARING or (name == "broadcast_in_dim" and not grows)


def collective_bytes(jaxpr: Jaxpr) -> Counter[str]:
    """Bytes of all collectives by kind, those of loops as often as they run.

    Of an all-gather its result, of a reduction what goes in.

    Raises:
        ValueError: A collective is in a loop whose length is not known beforehand.
    """
    found: Counter[str] = Counter()
    for equation in _needed(jaxpr):
        name = equation.primitive.name
        if name in COLLECTIVES:
            kind, by_result = COLLECTIVES[name]
            found[kind] += sum(map(_bytes, equation.outvars if by_result else equation.invars))
        for inner in _inner(equation):
            within = collective_bytes(inner)
            if name == "while" and within:
                raise ValueError(f"collectives in a loop of unknown length: {dict(within)}")
            times = equation.params["length"] if name == "scan" else 1
            found.update({kind: times * size for kind, size in within.items()})
    return found


def _needed(jaxpr: Jaxpr) -> list[Any]:
    """Equations that a result depends on, in order; a step has no other effect."""
    wanted = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    needed = []
    for equation in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(equation.outvars):
            needed.append(equation)
            wanted.update(v for v in equation.invars if not isinstance(v, Literal))
    return needed[::-1]


def _inner(equation: Any) -> Iterator[Jaxpr]:
    for leaf in jax.tree.leaves(equation.params):
        jaxpr = getattr(leaf, "jaxpr", leaf)
        if hasattr(jaxpr, "eqns"):
            yield jaxpr


def _bytes(variable: Any) -> int:
    kind = variable.aval
    return kind.size * kind.dtype.itemsize if hasattr(kind, "dtype") else 0
