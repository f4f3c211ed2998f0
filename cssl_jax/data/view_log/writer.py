"""Writes and reads RUN/views, the log of the augmentation parameters of every view of a run."""

import io
import pathlib
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.view_log.parameters import view_parameters
from cssl_jax.errors import UserError
from cssl_jax.files import write_bytes

FOLDER = "views"  # name of the log's folder in the run folder
SHARD = 100  # steps per file


class ViewLogWriter:
    """Writes ``view_parameters`` of every step to compressed .npz files of SHARD steps each.

    A file is named by its first step. A separate thread writes it atomically. A resumed run
    rewrites the file that contains the resumed step from that file's first step, and deletes later
    files. Draws depend only on the seed and the step, so the steps of an earlier process can be
    drawn again. A killed run therefore leaves no gap and no duplicate step.

    Args:
        folder: Folder of the log; created if it does not exist.
        job: Description of the views.
        start: Number of steps that the run has completed.
    """

    def __init__(self, folder: pathlib.Path, job: ViewJob, start: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._parameters = folder, view_parameters(job)
        self._first, self._done = start - start % SHARD, start
        for path in folder.glob("*.npz"):
            if int(path.stem) >= start:
                path.unlink()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cssl-record")
        self._pending: Future[None] | None = None
        self._flush()

    def advance(self, done: int) -> None:
        """Records that ``done`` steps of the run have been dispatched.

        Raises:
            OSError: The previous file could not be written.
        """
        self._done = done
        if done % SHARD == 0:
            self._flush()
            self._first = done

    def wait(self) -> None:
        """Waits until the current file is written, so that a later checkpoint finds it complete.

        Raises:
            OSError: The file could not be written.
        """
        if self._pending is not None:
            self._pending.result()

    def close(self) -> None:
        """Writes the remaining steps and stops the thread.

        Raises:
            OSError: A file could not be written.
        """
        self._flush()
        self._pool.shutdown()
        self.wait()

    def _flush(self) -> None:
        self.wait()  # one file at a time; raises the error of the previous one
        if self._done > self._first:
            self._pending = self._pool.submit(self._write, self._first, self._done)

    def _write(self, start: int, stop: int) -> None:
        content = io.BytesIO()
        np.savez_compressed(content, **self._parameters(start, stop))  # type: ignore[arg-type]
        write_bytes(_path(self._folder, start), content.getvalue())


def read_view_log(folder: pathlib.Path, start: int, stop: int) -> dict[str, np.ndarray] | None:
    """Reads the logged parameters of a range of steps.

    Args:
        folder: Folder of the log.
        start: First step.
        stop: Last step plus one.

    Returns:
        Parameters in the form of ``view_parameters``; None if a step of the range is not logged.

    Raises:
        UserError: A file is damaged.
    """
    shards = []
    for first in range(start - start % SHARD, stop, SHARD):
        path = _path(folder, first)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as content:
                shard = {name: content[name] for name in content.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} is damaged; delete it, its content can be drawn again from the seed"
            ) from error
        in_range = (shard["step"] >= start) & (shard["step"] < stop)
        shards.append({name: value[in_range] for name, value in shard.items()})
    joined = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    return joined if len(joined["step"]) == stop - start else None


def _path(folder: pathlib.Path, first: int) -> pathlib.Path:
    return folder / f"{first:08}.npz"
