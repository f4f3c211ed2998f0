"""Files that a command writes where its user says: regular files, links, pipes, devices and "-"."""

import contextlib
import os
import pathlib
import re
import stat
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from cssl_jax.errors import UserError
from cssl_jax.files import json_text, replaced, to_bytes

if TYPE_CHECKING:
    import PIL.Image

STDOUT = pathlib.Path("-")
# Folders whose entries are open descriptors: /dev/stdout, and what a shell makes of >(command).
_DESCRIPTORS = re.compile(r"/dev|/dev/fd|/proc/[^/]+(/task/\d+)?/fd")


def check_output(path: pathlib.Path, suffix: str = "", *, option: str = "--output") -> None:
    """Refuses a file to write before any work is done.

    Args:
        path: File to write; "-" is standard output, which takes any content.
        suffix: Suffix that a regular file must have, such as ".png"; "" is any.
        option: Option that named the file.

    Raises:
        UserError: The suffix is another, the path is a folder, or its folder is missing or cannot
            be written.
    """
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; name a file, such as {path}/out{suffix}")
    if is_stream(path):
        return
    if suffix and path.suffix != suffix:
        raise UserError(f"{option} {path} must end in {suffix}")
    folder = pathlib.Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise UserError(f"{option} {path}: the folder does not exist; make it first")
    if not os.access(folder, os.W_OK) and not _is_writable_file(path):
        raise UserError(f"{option} {path}: no write access to {folder}; use another folder")


def is_stdout(path: pathlib.Path) -> bool:
    """Whether a path is "-", or another name of standard output, such as /dev/stdout."""
    if path == STDOUT:
        return True
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:
        return False


def is_stream(path: pathlib.Path) -> bool:
    """Whether a path must be written directly: a pipe, a device, or an open descriptor."""
    if is_stdout(path) or _DESCRIPTORS.fullmatch(os.path.realpath(path.parent)):
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


@contextlib.contextmanager
def open_output(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """A binary file to write, which replaces the target of ``path`` in one piece on success.

    Links are followed. A pipe or a device has no content to replace and is written directly.

    Raises:
        UserError: It cannot be written; a regular file is as before then.
    """
    try:
        if is_stdout(path):
            sys.stdout.flush()
            with open(1, "wb", closefd=False) as file:
                yield file
        elif is_stream(path) or not os.access(os.path.realpath(path.parent), os.W_OK):
            with path.open("wb") as file:
                yield file
        else:
            with replaced(path) as file:
                yield file
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; make room or get write access, or "
            "name another file"
        ) from error


def write_output(path: pathlib.Path, content: bytes | str) -> None:
    """Writes a file that the user named; see ``open_output``."""
    with open_output(path) as file:
        file.write(to_bytes(content) if isinstance(content, str) else content)


def write_png(path: pathlib.Path, image: "PIL.Image.Image") -> None:
    """Writes a PNG that the user named; see ``open_output``."""
    with open_output(path) as file:
        image.save(file, "PNG")


def write_json_output(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON file that the user named; see ``open_output``."""
    write_output(path, json_text(content))


@contextlib.contextmanager
def stdout_kept_for(*paths: pathlib.Path | None) -> Iterator[None]:
    """Within it, ``print`` writes to standard error if a path is standard output.

    Raises:
        UserError: More than one of the paths is standard output.
    """
    taken = [path for path in paths if path is not None and is_stdout(path)]
    if len(taken) > 1:
        raise UserError("two outputs are standard output; write one of them to a file")
    with contextlib.redirect_stdout(sys.stderr) if taken else contextlib.nullcontext():
        yield


def _is_writable_file(path: pathlib.Path) -> bool:
    return path.is_file() and os.access(path, os.W_OK)
