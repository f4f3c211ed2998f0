"""Plans for accelerators this machine does not have: compiles the real program for them."""

import contextlib
import dataclasses
import importlib.util
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import RunError, UserError
from cssl_jax.planning.planner import KINDS, MICRO_BATCH, step_fits, with_step
from cssl_jax.planning.targets.chips import Target, parse_target
from cssl_jax.runtime import subprocesses

CHILD = "cssl_jax.planning.targets.target_worker"
# Platform: (module that contains its compiler, command that installs it).
COMPILERS = {
    "tpu": ("libtpu", 'pip install "cssl-jax[plan-tpu]"'),
    "cuda": ("jax_plugins.xla_cuda13", 'pip install "cssl-jax[plan-cuda]"'),
}
# Describes a TPU host to the compiler, which then needs neither a metadata server nor a chip.
_TPU_VARIABLES = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # plans may be made side by side: none of them has a chip
}
_CUDA_VARIABLES = {
    "JAX_PLATFORMS": "cuda,cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
}


@dataclasses.dataclass(frozen=True)
class TargetPlan:
    """Results of ``cssl-jax plan --target``.

    Attributes:
        config: Config of the run.
        target: Accelerators that the step was compiled for.
        compiled: Results of the child process, see ``target_worker.main``.
        largest: Kind of step -> largest global batch that fits, from two compiled sizes; empty if
            it was not requested.
        views_per_core: Views per second that one host core computes (``bench-input``); 0 if
            unknown.
    """

    config: Config
    target: Target
    compiled: dict[str, Any]
    largest: dict[str, int]
    views_per_core: float = 0.0

    @property
    def held(self) -> int:
        """Bytes on one device: arguments, results not aliased with arguments, and temporaries."""
        return sum(self.compiled["memory"].values())

    @property
    def memory(self) -> float:
        """Memory of one device in bytes."""
        return self.target.chip.memory

    @property
    def bounds(self) -> dict[str, float]:
        """Resource -> minimum seconds that a step takes at the resource's stated rate."""
        chip = self.target.chip
        return {
            "compute": self.compiled["flops"] / chip.flops,
            "memory bandwidth": self.compiled["bytes"] / chip.bandwidth,
            "interconnect": self.sent / chip.interconnect,
        }

    @property
    def sent(self) -> float:
        """Bytes that one device sends per step with ring algorithms."""
        count, sizes = self.compiled["devices"], self.compiled["collectives"]
        once = sizes.get("all-gather", 0) + sizes.get("reduce-scatter", 0)
        return float((count - 1) / count * (once + 2 * sizes.get("all-reduce", 0)))

    @property
    def views_per_second(self) -> float:
        """Upper bound on the views per second of all chips: the largest of ``bounds`` limits it."""
        return 2 * self.config.train.batch_size / max(self.bounds.values())


def plan_target(
    config: Config,
    name: str,
    *,
    largest: bool = False,
    views_per_core: float = 0.0,
    timeout: float = 1800.0,
) -> TargetPlan:
    """Compiles a recipe's train step for a target and reports what its program needs.

    Args:
        config: Config of the run; see ``recipes.load``.
        name: Name of the target, such as "tpu:v5e:4x8" or "cuda:h100"; see ``chips.parse_target``.
        largest: Whether to find the largest batch of each kind of step, from two compiled sizes.
        views_per_core: Views per second that one host core computes; 0 omits the hosts.
        timeout: Seconds for each compilation.

    Raises:
        UserError: The target is unknown, its compiler is not installed, or the batch does not
            divide over the devices.
        RunError: Compiling failed or took too long.
    """
    target = parse_target(name)
    config = recipes.canonical(config)
    module, command = COMPILERS[target.platform]
    if not _installed(module):
        raise UserError(
            f"--target {name} needs the compiler of {target.platform}, which is not installed: "
            f"{command}"
        )
    step_fits(config, target.chips)
    compiled = compile_for(config, target, timeout)
    sizes = {}
    if largest:
        for kind in KINDS:
            sizes[kind] = _largest(config, target, kind, compiled["devices"], timeout)
    return TargetPlan(config, target, compiled, sizes, views_per_core)


def compile_for(config: Config, target: Target, timeout: float) -> dict[str, Any]:
    """Compiles in a child process and returns the results of ``target_worker.main``.

    Args:
        config: Config of the run.
        target: Accelerators to compile for.
        timeout: Seconds for the compilation.

    Raises:
        RunError: Compiling failed or took too long.
    """
    arguments = {
        "config": recipes.to_dict(config),
        "platform": target.platform,
        "model": target.model,
        "topology": target.topology,
        "memory": int(target.chip.memory),
    }
    variables = subprocesses.environment(simulated=True)
    variables |= _TPU_VARIABLES if target.platform == "tpu" else _CUDA_VARIABLES
    with _progress(f"compiling batch {config.train.batch_size} for {target.name}"):
        try:
            (results,) = subprocesses.run(CHILD, [arguments], variables=variables, timeout=timeout)
        except RunError as error:
            raise _refused(config, target, str(error)) or error from None
    return results


def _refused(config: Config, target: Target, message: str) -> RunError | None:
    """The error of a step that the compiler finds too large for the device; None for others."""
    _, found, reason = message.partition("RESOURCE_EXHAUSTED: ")
    if not found:
        return None
    numbers = re.search(r"\(([\d.]+)G\) exceeds available \w+ \(([\d.]+)G\)", reason)
    needs = f"{numbers[1]} of {numbers[2]} GiB" if numbers else reason.splitlines()[0]
    return RunError(
        f"{target.name}: batch {config.train.batch_size} does not fit in the memory of a device "
        f"({needs}); name more chips, or give --model.remat, --train.micro-batch (GradCache) or a "
        "smaller --train.batch-size"
    )


def _largest(config: Config, target: Target, kind: str, devices: int, timeout: float) -> int:
    """Largest global batch that fits, extrapolated linearly from two compiled batch sizes."""
    micro = MICRO_BATCH if kind == "GradCache" else 8
    points = []
    for examples in (2 * micro, 4 * micro):
        tried = with_step(config, kind, examples * devices, micro * devices)
        compiled = compile_for(tried, target, timeout)
        points.append((examples, sum(compiled["memory"].values())))
    (few, low), (many, high) = points
    slope = max((high - low) / (many - few), 1.0)
    per_device = few + int((target.chip.memory - low) / slope)
    unit = micro if kind == "GradCache" else 1  # GradCache needs whole micro-batches
    return max(0, per_device // unit * unit) * devices


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextlib.contextmanager
def _progress(text: str) -> Iterator[None]:
    """Shows a text and the elapsed seconds on standard error; the text alone if not a terminal."""
    done = threading.Event()

    def count() -> None:
        seconds = 0
        while not done.wait(1):
            seconds += 1
            print(f"\r{text}: {seconds} s", end="", file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)
        yield
        return
    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        print("\r\033[K", end="", file=sys.stderr, flush=True)
