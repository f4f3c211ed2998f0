"""Messages for out-of-memory errors: the memory of a step, and options that reduce it."""

import re
import traceback
from collections.abc import Iterator

import jax

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.planning.plan import GIB
from cssl_jax.planning.planner import held_bytes, step_fits
from cssl_jax.planning.shapes import DataShapes, data_shapes

_EVALUATION = "cssl_jax.evaluate."
_EXHAUSTED = re.compile(r"RESOURCE_EXHAUSTED|out of memory|bad_alloc", re.IGNORECASE)
_HALVINGS = 6  # sizes of the batch or the micro-batch to try; every one is traced


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports that the memory of the host or of a device is exhausted."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and bool(_EXHAUSTED.search(str(error)))


def training_message(config: Config, error: BaseException, *, saved: bool) -> str:
    """Message with the memory of a step, and three options with the memory that each needs.

    Args:
        config: Config of the run.
        error: Out-of-memory error.
        saved: Whether the run has a checkpoint; its batch size can then no longer change.
    """
    devices = config.runtime.devices or jax.device_count()
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    text = f"out of memory at batch {config.train.batch_size} on {devices} device(s)"
    try:
        given = data_shapes(config, memory, devices)
        held = held_bytes(config, devices, given)
        ways = list(_ways(config, devices, given, memory, saved))
    except Exception:  # tracing may run out of memory too: the original error matters more
        held, ways = 0, []
    if held:
        limit = f" of {memory / GIB:.2f} GiB" if memory else ""
        text += f", where a step needs {held / GIB:.2f} GiB{limit} on each device by array shapes"
    ways = ways or ["--train.batch-size with a lower number", "--model.remat"]
    lines = "".join(f"\n  {way}" for way in ways)
    return f"{text} ({_first_line(error)}). Options that need less, with a step's memory:{lines}"


def evaluation_message(error: BaseException, batch_option: str = "") -> str:
    """Message for a command or an evaluation that does not train.

    Args:
        error: Out-of-memory error.
        batch_option: Option that sets the number of images embedded at once; "" if there is none.
    """
    smaller = f"give {batch_option} a lower number, or " if batch_option else ""
    return f"out of memory ({_first_line(error)}); {smaller}stop other programs that use the memory"


def is_in_evaluation(error: BaseException) -> bool:
    """Whether an error was raised in evaluation code, where the training batch has no effect."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").startswith(_EVALUATION) for frame, _ in frames)


def _ways(
    config: Config, devices: int, given: DataShapes, memory: int | None, saved: bool
) -> Iterator[str]:
    """Lines with an option to type and the GiB of a step; only options valid for the config."""
    elsewhere = ", in another --workdir: a saved run keeps its batch size" if saved else ""
    batch, micro = config.train.batch_size, config.train.micro_batch
    smaller = [size for size in _halves(batch, devices) if not micro or size % micro == 0]
    fit = _fitting(
        [config.replace({"train.batch_size": size}) for size in smaller], devices, given, memory
    )
    if fit:
        size, held = fit[0].train.batch_size, fit[1]
        yield f"--train.batch-size {size}: {held / GIB:.2f} GiB{elsewhere}"
    if not config.model.remat:
        fit = _fitting([config.replace({"model.remat": True})], devices, given, None)
        if fit:
            yield f"--model.remat: {fit[1] / GIB:.2f} GiB, a second forward pass per step"
    parts = [size for size in _halves(micro or batch, devices) if batch % size == 0]
    fit = _fitting(
        [config.replace({"train.micro_batch": size}) for size in parts], devices, given, memory
    )
    if fit:
        size, held = fit[0].train.micro_batch, fit[1]
        yield f"--train.micro-batch {size}: {held / GIB:.2f} GiB, the same global batch{elsewhere}"


def _halves(batch: int, devices: int) -> list[int]:
    """Sizes of at most a half, a quarter, ... of a batch that divide over the devices."""
    sizes = [batch // 2**n // devices * devices for n in range(1, _HALVINGS + 1)]
    return [size for size in dict.fromkeys(sizes) if size > 1]


def _fitting(
    configs: list[Config], devices: int, given: DataShapes, memory: int | None
) -> tuple[Config, int] | None:
    """The first valid config whose step fits the memory, else the last valid one; and its bytes."""
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
