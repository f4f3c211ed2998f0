"""Sections on ResNet-18 for CIFAR: the resident pipeline's cost, and that of equal bits."""

from typing import Any

import numpy as np

from accelerator import kernels
from accelerator.programs import compile_recipe
from accelerator.recorder import Recorder

RECIPE = "cifar10_resnet18"
SMALL: dict[str, Any] = {"model.encoder": "resnet10", "model.width": 0.25, "train.batch_size": 32}
DETERMINISM = {
    "default": {},
    "exclude_nondeterministic_ops": {"xla_gpu_exclude_nondeterministic_ops": True},
    "deterministic_ops": {"xla_gpu_deterministic_ops": True},
}


def resident(record: Recorder, *, small: bool) -> None:
    """The recipe's own step with its views made in it, and with views that lie on the device."""
    from input import resident as section

    for dtype in ("bfloat16",) if small else ("bfloat16", "float32"):
        name = f"{RECIPE} {dtype}, resident pipeline"

        def measure(dtype: str = dtype, name: str = name) -> None:
            overrides = {**(SMALL if small else {}), "model.dtype": dtype}
            pair = section.Pair(overrides, images=5_000 if small else 50_000)
            found = pair.measure(0.3 if small else 1.5)
            found["views_per_s"] = 2e3 * found["batch_size"] / found["step_ms"]
            record.put(name, **found)
            if dtype == "bfloat16":
                folder = record.out / "traces" / "resnet18"
                record.put(f"{name}, kernels", **kernels.trace(pair.making.send, folder))

        record.attempt(name, measure, seconds=20)


def determinism(record: Recorder, *, small: bool) -> None:
    """Each option's time, and whether five steps from one state give the same bits twice."""
    import jax

    gpu = jax.default_backend() == "gpu"
    for name, options in DETERMINISM.items():

        def measure(name: str = name, options: dict[str, Any] = options) -> None:
            program = compile_recipe(
                RECIPE,
                {**(SMALL if small else {}), "model.dtype": "bfloat16"},
                size=32,
                options=options if gpu else {},
            )
            ends = []
            for _ in range(2):
                program.restart()
                for _ in range(5):
                    program.step()
                leaves = jax.tree.leaves(program.state.params)
                ends.append(np.concatenate([np.ravel(np.asarray(leaf)) for leaf in leaves]))
            same = bool((ends[0] == ends[1]).all())
            record.put(f"{RECIPE} {name}", same_bits=same, **program.timed(0.2 if small else 1.5))

        record.attempt(name, measure, seconds=20)
