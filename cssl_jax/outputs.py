"""Writes to paths that the user names: regular files, links, pipes, devices and "-" (stdout)."""

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
# Folders whose entries are open file descriptors, such as /dev/stdout or a shell's >(command).
_DESCRIPTORS = re.compile(r"/dev|/dev/fd|/proc/[^/]+(/task/\d+)?/fd")


def check_output(path: pathlib.Path, suffix: str = "", *, option: str = "--output") -> None:
    """Checks that a file can be written, before any work is done.

    Args:
        path: File to write; "-" is standard output, which accepts any content.
        suffix: Suffix that a regular file must have, such as ".png"; "" accepts any.
        option: Option that named the file, for messages.

    Raises:
        UserError: The suffix differs, the path is a folder, or its parent folder is missing or not
            writable.
    """
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; name a file, such as {path}/out{suffix}")
    if is_stream(path):
        return
    if suffix and path.suffix != suffix:
        raise UserError(f"{option} {path} must end in {suffix}")
    folder = pathlib.Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise UserError(f"{option} {path}: the folder does not exist; create it first")
    if not os.access(folder, os.W_OK) and not _is_writable_file(path):
        raise UserError(f"{option} {path}: no write access to {folder}; use another folder")


def is_stdout(path: pathlib.Path) -> bool:
    """Whether a path is "-" or another name of standard output, such as /dev/stdout."""
    if path == STDOUT:
        return True
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:
        return False


def is_stream(path: pathlib.Path) -> bool:
    """Whether a path is a pipe, a device or an open descriptor, which cannot be replaced."""
    if is_stdout(path) or _DESCRIPTORS.fullmatch(os.path.realpath(path.parent)):
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


@contextlib.contextmanager
def open_output(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that atomically replaces the target of ``path`` on success.

    Links are followed. A pipe or a device has no content to replace and is written directly.

    Raises:
        UserError: The file cannot be written; a regular file is then unchanged.
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
    except BrokenPipeError:  # the reader, such as ``head``, has closed the pipe
        raise
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; make room or get write access, or "
            "name another file"
        ) from error


def write_output(path: pathlib.Path, content: bytes | str) -> None:
    """Writes text or bytes to a path that the user named; see ``open_output``."""
    with open_output(path) as file:
        file.write(to_bytes(content) if isinstance(content, str) else content)


def write_png(path: pathlib.Path, image: "PIL.Image.Image") -> None:
    """Writes a PNG image to a path that the user named; see ``open_output``."""
    with open_output(path) as file:
        image.save(file, "PNG")


def write_json_output(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON object to a path that the user named; see ``open_output``."""
    write_output(path, json_text(content))


@contextlib.contextmanager
def stdout_kept_for(*paths: pathlib.Path | None) -> Iterator[None]:
    """Context in which ``print`` writes to standard error if a path is standard output.

    The file's content on standard output then stays free of other text.

    Args:
        *paths: Paths that the command writes; None is ignored.

    Raises:
        UserError: More than one of the paths is standard output.
    """
    stdout_paths = [path for path in paths if path is not None and is_stdout(path)]
    if len(stdout_paths) > 1:
        raise UserError("two outputs are standard output; write one of them to a file")
    with contextlib.redirect_stdout(sys.stderr) if stdout_paths else contextlib.nullcontext():
        yield


def _is_writable_file(path: pathlib.Path) -> bool:
    return path.is_file() and os.access(path, os.W_OK)
