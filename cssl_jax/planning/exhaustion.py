"""The answer to memory that ran out: what a step holds, and the ways to need less of it."""

import dataclasses
import re
import traceback
from collections.abc import Iterator

import jax

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.planning.plan import GIB
from cssl_jax.planning.planner import held_bytes, step_fits
from cssl_jax.planning.shapes import Input, input_of

_EVALUATION = "cssl_jax.evaluate."
_EXHAUSTED = re.compile(r"RESOURCE_EXHAUSTED|out of memory|bad_alloc", re.IGNORECASE)
_HALVINGS = 6  # of the batch or the micro-batch, each of which is traced


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the host or of a device is used up."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and bool(_EXHAUSTED.search(str(error)))


def training_message(config: Config, error: BaseException, *, saved: bool) -> str:
    """The sizes of a step, and three options with the memory that the step holds with each.

    Args:
        config: The run.
        error: The error.
        saved: Whether the run has a checkpoint: its batch can no longer change then.
    """
    devices = config.runtime.devices or jax.device_count()
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    text = f"out of memory at batch {config.train.batch_size} on {devices} device(s)"
    try:
        given = input_of(config, memory, devices)
        held = held_bytes(config, devices, given)
        ways = list(_ways(config, devices, given, memory, saved))
    except Exception:  # memory for tracing may be lacking too: the first message matters more
        held, ways = 0, []
    if held:
        there = f" of {memory / GIB:.2f} GiB" if memory else ""
        text += f", where a step holds {held / GIB:.2f} GiB{there} of each device by shapes"
    ways = ways or ["--train.batch-size with a lower number", "--model.remat"]
    lines = "".join(f"\n  {way}" for way in ways)
    return f"{text} ({_first_line(error)}). Ways to need less, with what a step holds then:{lines}"


def evaluation_message(error: BaseException, batch_option: str = "") -> str:
    """The answer where nothing is being trained.

    Args:
        error: The error.
        batch_option: Option that sets the number of images embedded at once; "" where none does.
    """
    smaller = f"give {batch_option} a lower number, or " if batch_option else ""
    return f"out of memory ({_first_line(error)}); {smaller}end what else uses the memory"


def is_in_evaluation(error: BaseException) -> bool:
    """Whether an error came from code that evaluates: the batch of training has no part in it."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").startswith(_EVALUATION) for frame, _ in frames)


def _ways(
    config: Config, devices: int, given: Input, memory: int | None, saved: bool
) -> Iterator[str]:
    """Each option as it is typed, with the GiB of a step; only what the config accepts."""
    elsewhere = ", in another --workdir: a run that was saved keeps its batch" if saved else ""
    batch, micro = config.train.batch_size, config.train.micro_batch
    smaller = [size for size in _halves(batch, devices) if not micro or size % micro == 0]
    found = _fitting(
        [_with_train(config, batch_size=size) for size in smaller], devices, given, memory
    )
    if found:
        size, held = found[0].train.batch_size, found[1]
        yield f"--train.batch-size {size}: {held / GIB:.2f} GiB{elsewhere}"
    if not config.model.remat:
        model = dataclasses.replace(config.model, remat=True)
        found = _fitting([dataclasses.replace(config, model=model)], devices, given, None)
        if found:
            yield f"--model.remat: {found[1] / GIB:.2f} GiB, a second forward pass per step"
    parts = [size for size in _halves(micro or batch, devices) if batch % size == 0]
    found = _fitting(
        [_with_train(config, micro_batch=size) for size in parts], devices, given, memory
    )
    if found:
        size, held = found[0].train.micro_batch, found[1]
        yield f"--train.micro-batch {size}: {held / GIB:.2f} GiB, the same global batch{elsewhere}"


def _halves(batch: int, devices: int) -> list[int]:
    """Sizes at most a half, a quarter, ... of a batch that divide over the devices."""
    sizes = [batch // 2**n // devices * devices for n in range(1, _HALVINGS + 1)]
    return [size for size in dict.fromkeys(sizes) if size > 1]


def _with_train(config: Config, **values: int) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **values))  # type: ignore[arg-type]


def _fitting(
    configs: list[Config], devices: int, given: Input, memory: int | None
) -> tuple[Config, int] | None:
    """The first config that is accepted and fits the memory, else the last, and its bytes."""
    last = None
    for config in configs:
        try:
            recipes.canonical(config)
            step_fits(config, devices)
        except UserError:
            continue
        held = held_bytes(config, devices, given)
        last = config, held
        if memory is None or held <= memory:
            break
    return last


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
