"""Folder of a run: which config owns it, which process writes to it, and write errors."""

import contextlib
import datetime
import errno
import fcntl
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import IO

from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import FOLDER
from cssl_jax.config import Config
from cssl_jax.errors import RunError, UserError
from cssl_jax.evaluate.encoders.foreign import is_foreign
from cssl_jax.files import is_unfinished, remove_unfinished, write_text
from cssl_jax.runtime import multihost

LOCK = ".lock"
IMPORTED = "import.json"  # in a folder with imported weights: file, SHA-256, what was taken
_APPEARS = 10.0  # seconds after which a network file system shows a host's writes to all hosts
# Errors of file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def check(run: pathlib.Path, config: Config) -> None:
    """Checks that the folder is empty, resumable with this config, or has no checkpoint.

    Raises:
        UserError: The folder holds something else, or ``train.init`` is not a run.
    """
    path = run / "config.json"
    if (run / IMPORTED).is_file():
        raise UserError(
            f"{run} holds imported weights, which are not trained in place; use another --workdir "
            f"and --init {run}"
        )
    begun = has_checkpoint(run)
    init = pathlib.Path(config.train.init)
    if config.train.init and not begun and not (has_checkpoint(init) or is_foreign(init)):
        raise UserError(
            f"train.init {init} holds no checkpoint and is no file of weights; give the folder of "
            "a run or such a file, or omit it to start from random weights"
        )
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file; give --workdir a folder")
    if path.is_file():
        known = recipes.read_json(path)
        changed = recipes.resume_differences(known, config)
        if changed and begun:
            raise UserError(
                f"{run} holds a run with another config; use another --workdir, or undo:\n  "
                + "\n  ".join(changed)
                + (_how_to_train_on(run) if config.train.epochs > known.train.epochs else "")
            )
    elif run.is_dir() and not all(e.name == LOCK or is_unfinished(e) for e in run.iterdir()):
        raise UserError(f"{run} is not empty and holds no run; use another --workdir")


def _how_to_train_on(run: pathlib.Path) -> str:
    return (
        "\nA run's epochs decide its learning rate at every step, so that they stay; to train "
        f"further from its weights, use another --workdir and --init {run}"
    )


def has_checkpoint(run: pathlib.Path) -> bool:
    """True if a checkpoint was saved; what a kill left unfinished does not count."""
    return any(path.name.isdigit() for path in (run / FOLDER).glob("[0-9]*"))


class Claim:
    """Lock that admits one writer to a run's folder; it ends with its process.

    The primary process takes it for all processes of a run.

    ``flock`` on RUN/.lock: the kernel releases it when the process ends, also by kill -9, so that
    no lock is ever stale and the file may stay. Over NFS it holds between hosts (as a byte-range
    lock) if the server runs a lock service. FUSE buckets and some cluster file systems lock within
    one host only, or not at all: there the user must start a run only once.
    """

    def __init__(self, run: pathlib.Path) -> None:
        self._path = run / LOCK
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Locks the folder, which must exist; does nothing if this claim holds the lock already.

        Raises:
            UserError: Another run holds the lock.
        """
        if self._file is not None:
            return
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                owner = file.read().strip() or "by an unknown process"
            raise UserError(
                f"{self._path.parent} is being written by another run ({owner}); wait for it, end "
                "it, or use another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.close()
                raise
        file.truncate(0)
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Releases the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "Claim":
        def take_if_there() -> None:  # refuse before the data are read
            if self._path.parent.is_dir():
                with writable(self._path.parent):
                    self.take()

        multihost.run_on_primary(take_if_there)
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def begin(run: pathlib.Path, config: Config, claim: Claim) -> None:
    """Creates the folder and its config.json, once the experiment is built.

    A config that is refused leaves no folder. A resumed run keeps its config.json until
    ``confirm``.

    Raises:
        UserError: The folder cannot be written, another run holds it, or a process cannot see it.
    """
    path = run / "config.json"

    def make() -> str:
        with writable(run):
            run.mkdir(parents=True, exist_ok=True)
            claim.take()
            remove_unfinished(run)
            if not (has_checkpoint(run) and path.is_file()):
                write_text(path, recipes.to_json(config))
            return path.read_text()

    content = multihost.broadcast_from_primary(make)
    multihost.run_on_all(lambda: _require_sight(path, content))


def confirm(run: pathlib.Path, config: Config) -> None:
    """Records the config of a resumed run, once its data are known to be unchanged."""

    def write() -> None:
        if recipes.read_json(run / "config.json") != config:
            write_text(run / "config.json", recipes.to_json(config))

    multihost.run_on_primary(write)


def _require_sight(path: pathlib.Path, content: str) -> None:
    """Raises UserError if this process cannot read what the primary process wrote."""
    if multihost.is_primary():
        return
    end = time.monotonic() + _APPEARS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if path.read_text() == content:
                return
        time.sleep(0.1)
    raise UserError(
        f"{path}, which process 0 wrote, is not here: --workdir must lie on a file system that all "
        "hosts of a run share, such as NFS or a mounted bucket"
    )


@contextlib.contextmanager
def writable(run: pathlib.Path) -> Iterator[None]:
    """Within it, an OSError is reported as: ``run`` cannot be written to."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {run}: {error.strerror}; use another --workdir, or get write access "
            "or room there"
        ) from error


@contextlib.contextmanager
def while_running(run: pathlib.Path) -> Iterator[None]:
    """Within it, a disk that can no longer be written to ends the run with a message.

    Raises:
        RunError: The disk is full or read-only, or a quota or maximum file size is exceeded.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise RunError(unwritten(run, error.strerror or str(error))) from error


def unwritten(what: pathlib.Path, reason: str) -> str:
    """Message for a file or folder that could not be written."""
    return (
        f"cannot write to {what}: {reason}; checkpoints saved before stand. Make room or get write "
        "access, then run the same command to resume"
    )
