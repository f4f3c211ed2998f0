"""Child process that runs trials of one recipe on several devices; see ``selfcheck.run``."""

import pathlib
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cssl_jax import recipes
from cssl_jax.experiment import data_splits
from cssl_jax.runtime import process, subprocesses
from cssl_jax.selfcheck.short_run import Trial
from cssl_jax.step.state import TrainState


def main(
    report: Callable[..., None],
    *,
    folder: str,
    cases: Sequence[tuple[str, int, str, int]],
    cpu_devices: int,
    processes: int,
    rank: int,
    coordinator: str,
) -> None:
    """Runs the cases and writes their outcomes to the folder.

    Args:
        report: Sends keyword arguments to the parent process, see ``subprocesses.serve``.
        folder: Folder with config.json, whose data source is the whole training split.
        cases: One (precision, devices, backend, steps) per trial.
        cpu_devices: Number of CPU devices to simulate in this process; 0 uses the machine's
            devices.
        processes: Number of processes that run the cases under JAX's distributed runtime.
        rank: Number of this process, from 0.
        coordinator: HOST:PORT of process 0; "" with one process.
    """
    if cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(coordinator, processes, rank, initialization_timeout=120)
    # By default a float32 product is computed in bfloat16 on TPUs and in TF32 on GPUs. Sums in
    # another order would then differ by more than the bounds in a correct step.
    jax.config.update("jax_default_matmul_precision", "highest")
    path = pathlib.Path(folder)
    config = recipes.read_json(path / "config.json")
    process.set_compile_cache(config.runtime.compile_cache)
    source = data_splits.modality_of(config).open(config.data.source, config.data)
    first_states: dict[str, TrainState] = {}
    for precision, devices, backend, steps in cases:
        start = time.monotonic()
        name = case_name(precision, devices, backend, processes)
        # Sets the switch for all threads, those of the pipeline too; jax.enable_x64 is for one.
        jax.config.update("jax_enable_x64", precision == "float64")
        trial = Trial(
            config,
            source,
            jax.devices()[:devices],
            backend,
            first_state=first_states.get(precision),
        )
        first_states[precision] = trial.first_state
        problem = _run(trial, steps, precision, path / f"{name}_{rank}.npz")
        description = f"{precision}, {devices} device(s) of {processes} process(es), {backend}"
        report(trial=description, seconds=time.monotonic() - start, problem=problem)


def case_name(precision: str, devices: int, backend: str, processes: int) -> str:
    """Name of the file with an outcome, without the rank and the suffix."""
    return f"{precision}_{devices}_{backend}_{processes}"


def _run(trial: Trial, steps: int, precision: str, path: pathlib.Path) -> str:
    """Writes the trial's outcome; returns "", or a message if replicas differ."""
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
