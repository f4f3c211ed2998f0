"""In a process of its own: trials of one recipe on several devices; see ``selfcheck``."""

import pathlib
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cssl_jax import recipes
from cssl_jax.data.sources.open import load_source
from cssl_jax.runtime import process, subprocesses
from cssl_jax.selfcheck.short_run import Trial
from cssl_jax.step.state import TrainState


def main(
    tell: Callable[..., None],
    *,
    folder: str,
    cases: Sequence[tuple[str, int, str, int]],
    cpu_devices: int,
    processes: int,
    rank: int,
    coordinator: str,
) -> None:
    """Runs the cases and leaves their outcomes in the folder.

    Args:
        tell: Reports to the parent, see ``subprocesses.serve``.
        folder: With config.json, whose data source is the whole training part.
        cases: (precision, devices, backend, steps) each.
        cpu_devices: To simulate in this process; 0 takes what there is.
        processes: That share the cases under JAX's distributed runtime.
        rank: Of this one.
        coordinator: Address, where there are several.
    """
    if cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(coordinator, processes, rank, initialization_timeout=120)
    # Otherwise a float32 product is bfloat16 on TPUs and TF32 on GPUs: sums of another order would
    # then differ by more than the bounds, with nothing wrong.
    jax.config.update("jax_default_matmul_precision", "highest")
    path = pathlib.Path(folder)
    config = recipes.read_json(path / "config.json")
    process.set_compile_cache(config.runtime.compile_cache)
    source = load_source(config.data.source, config.data)
    first_states: dict[str, TrainState] = {}
    for precision, devices, backend, steps in cases:
        start = time.monotonic()
        name = case_name(precision, devices, backend, processes)
        # For all threads, those that make the input too: jax.enable_x64 is for one.
        jax.config.update("jax_enable_x64", precision == "float64")
        trial = Trial(
            config,
            source,
            jax.devices()[:devices],
            backend,
            first_state=first_states.get(precision),
        )
        first_states[precision] = trial.first_state
        failed = _run(trial, steps, precision, path / f"{name}_{rank}.npz")
        words = f"{precision}, {devices} device(s) of {processes} process(es), {backend}"
        tell(words=words, seconds=time.monotonic() - start, failed=failed)


def case_name(precision: str, devices: int, backend: str, processes: int) -> str:
    """Of the file that an outcome is in, but for the rank."""
    return f"{precision}_{devices}_{backend}_{processes}"


def _run(trial: Trial, steps: int, precision: str, path: pathlib.Path) -> str:
    """Writes the outcome; returns what makes it none, in words."""
    try:
        outcome = trial.run(steps, np.dtype(precision))
    except RuntimeError as error:
        if not str(error).startswith("replicas differ"):
            raise
        return str(error)
    np.savez(path, **outcome._asdict())
    return ""


if __name__ == "__main__":
    subprocesses.serve(main)
