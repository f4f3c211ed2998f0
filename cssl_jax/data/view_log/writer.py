"""What every view of a run underwent, written down while it runs: RUN/views, and its reading."""

import io
import pathlib
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from cssl_jax.data.pipeline.host_draws import Work
from cssl_jax.data.view_log.parameters import view_parameters
from cssl_jax.errors import UserError
from cssl_jax.files import write_bytes

FOLDER = "views"  # in a run's
SHARD = 100  # steps a file


class ViewRecord:
    """Writes ``view_parameters`` of every step, SHARD steps a compressed .npz file.

    A file is named by its first step and written in one piece, by a thread of its own. A resumed
    run writes the file of the step at which it goes on anew, from that file's first step, and drops
    later ones: draws are keyed, so what an earlier process did is drawn again, and no kill leaves a
    gap or a step twice.
    """

    def __init__(self, folder: pathlib.Path, work: Work, start: int) -> None:
        """Opens the record of a run that has ``start`` steps behind it."""
        folder.mkdir(exist_ok=True)
        self._folder, self._parameters = folder, view_parameters(work)
        self._first, self._done = start - start % SHARD, start
        for path in folder.glob("*.npz"):
            if int(path.stem) >= start:
                path.unlink()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cssl-record")
        self._pending: Future[None] | None = None
        self._flush()

    def add(self, done: int) -> None:
        """Notes that ``done`` steps have been sent off.

        Raises:
            OSError: The file before could not be written.
        """
        self._done = done
        if done % SHARD == 0:
            self._flush()
            self._first = done

    def wait(self) -> None:
        """Waits for the file that is being written; a checkpoint saved after it finds it whole."""
        if self._pending is not None:
            self._pending.result()

    def close(self) -> None:
        """Writes what is left."""
        self._flush()
        self._pool.shutdown()
        self.wait()

    def _flush(self) -> None:
        self.wait()  # one at a time; raises what went wrong
        if self._done > self._first:
            self._pending = self._pool.submit(self._write, self._first, self._done)

    def _write(self, start: int, stop: int) -> None:
        content = io.BytesIO()
        np.savez_compressed(content, **self._parameters(start, stop))  # type: ignore[arg-type]
        write_bytes(_path(self._folder, start), content.getvalue())


def read_record(folder: pathlib.Path, start: int, stop: int) -> dict[str, np.ndarray] | None:
    """The steps [start, stop) as ``view_parameters`` gives them; None where one is not there.

    Raises:
        UserError: A file is broken.
    """
    parts = []
    for first in range(start - start % SHARD, stop, SHARD):
        path = _path(folder, first)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as content:
                shard = {name: content[name] for name in content.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is broken; delete it, it can be drawn again") from error
        wanted = (shard["step"] >= start) & (shard["step"] < stop)
        parts.append({name: value[wanted] for name, value in shard.items()})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return joined if len(joined["step"]) == stop - start else None


def _path(folder: pathlib.Path, first: int) -> pathlib.Path:
    return folder / f"{first:08}.npz"
