"""Guards around a whole run: signals, lost processes, memory, the disk, one writer per folder."""

import contextlib
import pathlib
import signal
from collections.abc import Iterator

import jax

from cssl_jax.config import Config
from cssl_jax.errors import InterruptedRunError, RunError
from cssl_jax.planning import exhaustion
from cssl_jax.runtime import multihost, process
from cssl_jax.train import run_dir


@contextlib.contextmanager
def guarded(
    config: Config, folder: pathlib.Path
) -> Iterator[tuple[process.SignalRecorder, run_dir.Claim]]:
    """Within it, signals are recorded, this run is the folder's one writer, and failures explained.

    Yields:
        (signals that have arrived, claim on the folder).

    Raises:
        UserError: Another run holds the folder.
        InterruptedRunError: A signal arrived before the first step, or after the last.
        RunError: The memory or the disk is exhausted, or another process has ended.
    """
    with process.catch_signals() as signals, multihost.raise_if_peer_lost():
        try:
            with (
                _memory_explained(config, folder),
                run_dir.while_running(folder),
                run_dir.Claim(folder) as claim,
            ):
                yield signals, claim
        except InterruptedRunError as stopped:
            *_, name = str(stopped).split()
            if name not in signal.Signals.__members__:
                raise  # the loop's own message: what was saved
            raise InterruptedRunError(
                f"{name} outside the steps: nothing is lost; run the same command to resume"
            ) from None


@contextlib.contextmanager
def _memory_explained(config: Config, folder: pathlib.Path) -> Iterator[None]:
    """Within it, running out of memory raises a RunError that lists the ways to need less."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not exhaustion.is_out_of_memory(error):
            raise
        if exhaustion.is_in_evaluation(error):
            raise RunError(exhaustion.evaluation_message(error, "--evaluate.batch-size")) from error
        saved = run_dir.has_checkpoint(folder)
        raise RunError(exhaustion.training_message(config, error, saved=saved)) from error
