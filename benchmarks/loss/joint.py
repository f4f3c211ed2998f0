"""Section ``joint``: the largest batch of a training step on one device, by kind of step and loss.

On an accelerator it is measured, see ``joint_device``. On a CPU it is solved from shapes: what the
backward pass keeps of each example, what the loss takes when compiled, what the model is.
"""

import argparse
import itertools
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import process
from measuring.report import cpu_environment, megabytes

from loss import joint_device
from loss.contenders import TEMPERATURE, WIDTH

LOSSES = {"dense": None, "tiled": "auto"}
STEPS = ("plain", "remat", "GradCache")
LOSS_PAIRS = {"dense": (256, 512, 1024, 2048), "tiled": (256, 1024, 2048, 4096, 8192)}
ASSUMPTIONS = (
    "Solved from shapes, nothing was run. A device holds: parameters, their gradient, the "
    "optimizer's state and running statistics; the batch's views as uint8; for every example that "
    "is encoded at once what reverse-mode differentiation of encoder and head keeps, each array "
    "counted once; and the temporaries of the compiled loss (XLA for CPU; beyond the sizes "
    "compiled by a fitted square or line). GradCache besides: projections and their cotangents of "
    "the whole batch; its loss and its activations are not held at one time. Not counted: "
    "temporaries of single layers, the block that remat recomputes, prefetched batches, "
    "fragmentation, and what XLA saves by fusing (for ResNet-50 compiled for a CPU a quarter of "
    "what is kept)."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--joint", choices=("auto", "shapes", "measured"), default="auto",
                        help="auto measures on accelerators")  # fmt: skip
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--size", type=int, default=224, help="px")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--micro-batch", type=int, default=32, help="examples, of GradCache")
    parser.add_argument("--gibibytes", type=float, nargs="+", default=[16, 80],
                        help="a device's memory, where solved from shapes")  # fmt: skip
    parser.add_argument("--largest-batch", type=int, default=2**17, help="tried, where measured")


def run(options: argparse.Namespace) -> dict:
    measured = options.joint == "measured"
    if options.joint == "auto":
        found = process.call("loss.joint_device.backend")
        measured = found.get("backend", "cpu") != "cpu"
    model = {key: getattr(options, key) for key in ("encoder", "size", "dtype")}
    setting = {**model, "micro_batch": options.micro_batch, "projections": WIDTH}
    if measured:
        kinds = [(loss, step) for step in STEPS for loss in LOSSES]
        return {**setting, **joint_device.run(options, model, kinds, LOSSES)}
    return {**setting, "assumptions": ASSUMPTIONS, **_from_shapes(options, model)}


def _from_shapes(options: argparse.Namespace, model: dict) -> dict:
    common: dict[str, Any] = {"environment": cpu_environment(), "timeout": options.timeout}
    kept = {
        kind: process.call("loss.joint.kept_bytes", **common, **model, remat=kind == "remat")
        for kind in ("plain", "remat")
    }
    temporary = {
        loss: [
            {
                "pairs": n,
                **process.call("loss.joint.loss_bytes", **common, pairs=n, tile=tile),
            }
            for n in LOSS_PAIRS[loss]
        ]
        for loss, tile in LOSSES.items()
    }
    found = {"kept": kept, "loss_temporaries": temporary, "rows": []}
    memory = itertools.chain(kept.values(), *temporary.values())
    if any("failed" in part for part in memory):
        return found
    losses = {loss: _curve(temporary[loss], 2 if loss == "dense" else 1) for loss in LOSSES}
    for step in STEPS:
        for loss, curve in losses.items():
            largest = {
                f"{limit:g}": _largest(step, curve, kept, options, limit * 2**30)
                for limit in options.gibibytes
            }
            found["rows"].append({"step": step, "loss": loss, "largest_batch": largest})
    return found


def _curve(measured: list[dict], degree: int) -> Callable[[int], float]:
    """Bytes of the compiled loss at N pairs: between sizes by a line, beyond by a polynomial."""
    pairs = np.array([memory["pairs"] for memory in measured], float)
    size = np.array([memory["bytes"] for memory in measured], float)
    large = pairs >= pairs[-degree - 2]  # small losses are compiled in other ways
    polynomial = np.polyfit(pairs[large], size[large], degree)

    def curve(n: int) -> float:
        return float(np.interp(n, pairs, size) if n <= pairs[-1] else np.polyval(polynomial, n))

    return curve


def _largest(
    step: str, loss: Callable[[int], float], kept: dict, options: argparse.Namespace, limit: float
) -> int:
    """Largest N that fits; of whole micro-batches with GradCache. 0 is none."""
    memory = kept["remat" if step == "remat" else "plain"]
    unit = options.micro_batch if step == "GradCache" else 1
    views = 2 * 3 * options.size**2

    def held(n: int) -> float:
        fixed = memory["fixed_bytes"] + n * views
        if step == "GradCache":
            projections = 2 * (2 * n * WIDTH * 4)
            activations = options.micro_batch * memory["bytes_per_example"]
            return fixed + projections + max(activations, loss(n))
        return fixed + n * memory["bytes_per_example"] + loss(n)

    low, high = 0, 1
    while held(high * unit) <= limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if held(middle * unit) <= limit else (low, middle)
    return low * unit


# ---------------------------------------------------------------------- in a process of its own


def kept_bytes(encoder: str, size: int, dtype: str, remat: bool) -> dict:
    """What the backward pass keeps of an example (two views), and what a model holds without one.

    Of jaxprs of two batches, so that what does not grow with the batch, such as parameters, drops
    out. Nothing is compiled.
    """
    import jax
    import jax.extend

    from cssl_jax.experiment import train_state
    from cssl_jax.methods.base import Context

    method, optimizer, spec = joint_device.parts(encoder, size, dtype, remat=remat, axis_name=None)
    state = train_state.state_shapes(method, optimizer, spec)

    def residuals(n: int) -> int:
        def keep(params, model_state, views):
            batch, ctx = {"views": {"main": views}}, Context(0, 1, None)
            _, pull_back, _ = jax.vjp(
                lambda p: method.encode(p, model_state, {}, batch, ctx), params, has_aux=True
            )
            return jax.tree.leaves(pull_back)

        views = jax.ShapeDtypeStruct((n, 2, size, size, 3), "float32")
        jaxpr = jax.make_jaxpr(keep)(state.params, state.model_state, views).jaxpr
        kept = [v for v in jaxpr.outvars if not isinstance(v, jax.extend.core.Literal)]
        return _bytes({id(v): v.aval for v in kept}.values())

    few, more = 2, 4
    return {
        "bytes_per_example": (residuals(more) - residuals(few)) // (more - few),
        "fixed_bytes": _bytes(jax.tree.leaves((state, state.params))),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    }


def _bytes(arrays) -> int:
    return sum(array.size * array.dtype.itemsize for array in arrays)


def loss_bytes(pairs: int, tile: str | None) -> dict:
    """Temporary bytes of the compiled loss and gradient on one device."""
    import jax

    from cssl_jax.losses import nt_xent

    def loss(z1, z2):
        return nt_xent(z1, z2, temperature=TEMPERATURE, tile_size=tile)

    view = jax.ShapeDtypeStruct((pairs, WIDTH), "float32")
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(view, view).compile()
    return {"bytes": compiled.memory_analysis().temp_size_in_bytes}


# ------------------------------------------------------------------------------------------- table


def table(section: dict) -> str:
    title = f"{section['encoder']}, {section['size']} px, {section['dtype']}, one device, "
    lines = [title + f"GradCache in micro-batches of {section['micro_batch']}"]
    if "device" in section:
        return "\n".join([*lines, joint_device.table(section)])
    for kind, memory in section["kept"].items():
        lines.append(f"{kind:<10}" + (memory.get("failed") or (
            f"keeps {megabytes(memory['bytes_per_example'])} an example (two views); model, "
            f"gradient and optimizer {megabytes(memory['fixed_bytes'])}"
        )))  # fmt: skip
    for loss, measured in section["loss_temporaries"].items():
        cells = [f"{m['pairs']:,}: {m.get('failed') or megabytes(m['bytes'])}" for m in measured]
        lines.append(f"{loss + ' loss':<12}takes at pairs {', '.join(cells)}")
    limits = list(section["rows"][0]["largest_batch"]) if section["rows"] else []
    lines.append(f"{'step':<12}{'loss':<8}" + "".join(f"{f'N in {x} GiB':>16}" for x in limits))
    for row in section["rows"]:
        cells = "".join(f"{f'{n:,}' if n else 'none':>16}" for n in row["largest_batch"].values())
        lines.append(f"{row['step']:<12}{row['loss']:<8}{cells}")
    lines += [textwrap.fill(section["assumptions"], 100), "images/s: measured on accelerators only"]
    return "\n".join(lines)
