"""Live bytes, collective bytes and products of a step, from its jaxpr: before XLA compiles it."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal
from jax.sharding import Mesh, PartitionSpec

from cssl_jax.planning.shapes import Step
from cssl_jax.runtime import spmd

# JAX primitive: (name in compiled programs, whether its size is that of the result).
COLLECTIVES = {
    "psum": ("all-reduce", False),
    "all_gather": ("all-gather", True),
    "reduce_scatter": ("reduce-scatter", False),
    "ppermute": ("collective-permute", False),
    "all_to_all": ("all-to-all", False),
}
# Primitives whose result XLA keeps in the memory of their operand.
ALIASING = ("reshape", "squeeze", "expand_dims", "optimization_barrier", "stop_gradient")
Jaxpr = Any


def device_program(step: Step, mesh: Mesh) -> Jaxpr:
    """The per-device program of a step: a jaxpr with per-device shapes. Compiles nothing."""
    specs = spmd.argument_specs(step.split_constants)
    mapped = jax.shard_map(
        step.function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
    )
    (equation,) = jax.make_jaxpr(mapped)(step.state, step.constants, step.host_batch).jaxpr.eqns
    return equation.params["jaxpr"]


def argument_bytes(jaxpr: Jaxpr) -> int:
    """Bytes of a program's arguments: the state, constants, and one device's rows of the batch."""
    return sum(_bytes(variable) for variable in (*jaxpr.invars, *jaxpr.constvars))


def peak_bytes(jaxpr: Jaxpr) -> int:
    """Maximum bytes alive besides the arguments if operations run one by one in program order.

    An array lives from the operation that computes it to the last one that reads it. A compiler
    that fuses operations needs less; one that pads or needs workspaces needs more.
    """
    equations = _needed(jaxpr)
    buffers: dict[Any, Any] = {}  # variable -> earlier variable whose memory it shares
    for equation in equations:
        if _aliases(equation):
            buffers |= {
                result: buffers.get(operand, operand)
                for result, operand in zip(equation.outvars, equation.invars, strict=False)
                if not isinstance(operand, Literal)
            }

    def arrays(variables: Any) -> Iterator[Any]:
        return (buffers.get(v, v) for v in variables if not isinstance(v, Literal))

    # Index of the last equation that reads an array; results outlive every equation.
    last_use = {v: i for i, equation in enumerate(equations) for v in arrays(equation.invars)}
    last_use |= dict.fromkeys(arrays(jaxpr.outvars), len(equations))
    freed: dict[int, list[Any]] = {}
    for variable, i in last_use.items():
        freed.setdefault(i, []).append(variable)
    alive: dict[Any, int] = {}
    held = peak = 0
    for i, equation in enumerate(equations):
        # Views of earlier arrays are not in last_use, and add nothing.
        results = {v: _bytes(v) for v in equation.outvars if v in last_use}
        result_bytes = sum(results.values())
        inner_peak = max(map(peak_bytes, _inner(equation)), default=0)
        # A loop's stacked results exist while its body runs; the results of another inner program
        # are part of that program's peak.
        is_loop = equation.primitive.name in ("scan", "while")
        peak = max(
            peak, held + (result_bytes + inner_peak if is_loop else max(result_bytes, inner_peak))
        )
        alive |= results
        held += result_bytes
        held -= sum(alive.pop(v, 0) for v in freed.get(i, ()))
    return peak


def _aliases(equation: Any) -> bool:
    """Whether the results of an equation are views of its operands' memory."""
    name = equation.primitive.name
    grows = [v.aval.size for v in equation.outvars] != [v.aval.size for v in equation.invars[:1]]
    return name in ALIASING or (name == "broadcast_in_dim" and not grows)


def collective_bytes(jaxpr: Jaxpr) -> Counter[str]:
    """Total bytes of each kind of collective; those in loops count as often as the loops run.

    The size of an all-gather is that of its result, the size of a reduction that of its operand.

    Raises:
        ValueError: A collective is in a loop whose trip count is not known when tracing.
    """
    sizes: Counter[str] = Counter()
    for equation in _needed(jaxpr):
        name = equation.primitive.name
        if name in COLLECTIVES:
            kind, by_result = COLLECTIVES[name]
            sizes[kind] += sum(map(_bytes, equation.outvars if by_result else equation.invars))
        for inner in _inner(equation):
            inner_sizes = collective_bytes(inner)
            if name == "while" and inner_sizes:
                raise ValueError(f"collectives in a loop of unknown length: {dict(inner_sizes)}")
            times = equation.params["length"] if name == "scan" else 1
            sizes.update({kind: times * size for kind, size in inner_sizes.items()})
    return sizes


def product_flops(jaxpr: Jaxpr) -> int:
    """Operations of the matrix products and convolutions, two per multiplication and addition.

    Products in loops count as often as the loops run, in a loop of unknown length once. Windows of
    a convolution count where they meet an input, not its padding or the holes of a dilation, as in
    XLA's own count.
    """
    total = 0
    for equation in _needed(jaxpr):
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            contracted = params["dimension_numbers"][0][0]
            sides = (equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * math.prod(sides) * equation.outvars[0].aval.size
        elif name == "conv_general_dilated":
            total += _convolution_flops(equation)
        inner = sum(map(product_flops, _inner(equation)))
        total += (params["length"] if name == "scan" else 1) * inner
    return total


def _convolution_flops(equation: Any) -> int:
    params = equation.params
    layout = params["dimension_numbers"]
    inputs, kernel = (variable.aval.shape for variable in equation.invars)
    outputs = equation.outvars[0].aval.shape
    flops: int = 2 * outputs[layout.out_spec[0]] * outputs[layout.out_spec[1]]
    flops *= kernel[layout.rhs_spec[1]]  # input channels of one group
    for axis, (before, _) in enumerate(params["padding"]):
        output, window, length = (
            shape[spec[axis + 2]]
            for shape, spec in zip(
                (outputs, kernel, inputs),
                (layout.out_spec, layout.rhs_spec, layout.lhs_spec),
                strict=True,
            )
        )
        starts = params["window_strides"][axis] * np.arange(output) - before
        places = starts[:, None] + params["rhs_dilation"][axis] * np.arange(window)
        step = params["lhs_dilation"][axis]
        met = (places >= 0) & (places <= step * (length - 1)) & (places % step == 0)
        flops *= int(np.count_nonzero(met))
    return flops


def _needed(jaxpr: Jaxpr) -> list[Any]:
    """Equations that a result depends on, in order; XLA removes the others, as a step is pure."""
    wanted = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    needed = []
    for equation in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(equation.outvars):
            needed.append(equation)
            wanted.update(v for v in equation.invars if not isinstance(v, Literal))
    return needed[::-1]


def _inner(equation: Any) -> Iterator[Jaxpr]:
    """Programs that an equation calls, such as the body of a loop."""
    for leaf in jax.tree.leaves(equation.params):
        jaxpr = getattr(leaf, "jaxpr", leaf)
        if hasattr(jaxpr, "eqns"):
            yield jaxpr


def _bytes(variable: Any) -> int:
    kind = variable.aval
    return kind.size * kind.dtype.itemsize if hasattr(kind, "dtype") else 0
