"""Sections on ResNet-50 at 224 px under LARS: the step's time and memory, the largest batch."""

from typing import Any

from accelerator import kernels
from accelerator.programs import Program, compile_recipe
from accelerator.recorder import Recorder

RECIPE = "imagenet_resnet50"
IMAGES = 1_281_167


def _program(small: bool, batch_size: int, **overrides: Any) -> Program:
    model: dict[str, Any] = {"train.batch_size": batch_size}
    model |= {"model.encoder": "resnet10", "model.width": 0.25} if small else {}
    model |= {name.replace("__", "."): value for name, value in overrides.items()}
    return compile_recipe(RECIPE, model, size=32 if small else 224, images=IMAGES)


def steps(record: Recorder, *, small: bool) -> None:
    """In bfloat16; the kernels that it consists of; a larger batch."""
    for batch_size in (4, 8) if small else (128, 256):
        name = f"{RECIPE} bfloat16 N {batch_size}"

        def measure(batch_size: int = batch_size, name: str = name) -> None:
            program = _program(small, batch_size, model__dtype="bfloat16")
            record.put(name, **program.timed(0.3 if small else 2.5))
            if batch_size == 128 or small:
                folder = record.out / "traces" / "resnet50"
                record.put(f"{name}, kernels", **kernels.trace(program.step, folder))
                kernels.keep_program(program.compiled, record.out / "traces" / "resnet50.txt.gz")

        record.attempt(name, measure, seconds=10 if small else 45)


def variants(record: Recorder, *, small: bool) -> None:
    """In float32 (TF32 products on a GPU), and with activations computed again."""
    for dtype, remat, batch_size in (("bfloat16", True, 128), ("float32", False, 64)):
        name = f"{RECIPE} {dtype}{' remat' * remat} N {batch_size}"

        def measure(
            dtype: str = dtype, remat: bool = remat, size: int = batch_size, name: str = name
        ) -> None:
            program = _program(small, 4 if small else size, model__dtype=dtype, model__remat=remat)
            record.put(name, **program.timed(0.3 if small else 2.0))

        record.attempt(name, measure, seconds=10 if small else 45)


def largest(record: Recorder, *, small: bool) -> None:
    """The largest batch by what compiling two sizes says; the estimate is not run."""
    import jax

    from cssl_jax.runtime import process

    limit = process.device_memory(jax.devices()[0]) or 2**33
    few = (2, 4) if small else (32, 64)
    for remat in (False, True):
        name = f"{RECIPE} bfloat16{' remat' * remat}, largest batch"

        def measure(remat: bool = remat, name: str = name) -> None:
            totals = []
            for batch_size in few:
                program = _program(small, batch_size, model__dtype="bfloat16", model__remat=remat)
                memory = program.compiled.memory_analysis()
                totals.append(memory.temp_size_in_bytes + memory.argument_size_in_bytes)
            slope = (totals[1] - totals[0]) / (few[1] - few[0])
            largest_batch = few[0] + int((limit - totals[0]) / slope)
            record.put(name, bytes_per_example=slope, estimate=largest_batch, limit_bytes=limit)

        record.attempt(name, measure, seconds=10 if small else 60)
