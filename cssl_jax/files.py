"""Writes files atomically, formats JSON and CSV, and locates the cache folder."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, TypeVar

import numpy as np

from cssl_jax.errors import UserError

T = TypeVar("T")
_FORMULA = tuple("=+-@\t\r")  # first characters of cells that spreadsheets run as formulas


def existing_run(run: str | pathlib.Path) -> pathlib.Path:
    """Absolute path of an existing run folder.

    Raises:
        UserError: The folder has no config.json; the message names a run inside it, if any.
    """
    path = pathlib.Path(run).expanduser().absolute()
    if not (path / "config.json").is_file():
        runs_inside = sorted([*path.glob("*/config.json"), *path.glob("trials/*/config.json")])
        remedy = "pretrain into it first"
        if runs_inside:
            remedy = f"name one of the runs in it, such as {runs_inside[0].parent}"
        elif path.is_file():
            remedy = f"if it holds weights, use `cssl-jax import {run} --workdir RUN` first"
        raise UserError(f"{run} is no run folder: it has no config.json; {remedy}")
    return path


def require_empty(folder: pathlib.Path, option: str) -> None:
    """Raises UserError unless a folder is missing or empty.

    Args:
        folder: Folder that is about to be written.
        option: Option that chose it, for the message, such as "--workdir".
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; use another {option}")


def cache_folder(name: str) -> pathlib.Path:
    """Folder below ~/.cache/cssl_jax (or $CSSL_JAX_CACHE); may not exist or not be writable."""
    root = os.environ.get("CSSL_JAX_CACHE") or "~/.cache/cssl_jax"
    return pathlib.Path(root).expanduser() / name


def cached_json(key: str, make: Callable[[], T]) -> T:
    """Returns the cached JSON value of a key, or computes and caches it.

    Args:
        key: Text that identifies the value.
        make: Function that computes the value, which must be representable in JSON.
    """
    digest = hashlib.blake2b(to_bytes(key), digest_size=10).hexdigest()
    path = cache_folder("index") / f"{digest}.json"
    try:
        entry = json.loads(path.read_text())
        if entry["key"] == key:
            content: T = entry["content"]
            return content
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not cached, or damaged
    content = make()
    with contextlib.suppress(OSError):  # caching is optional: the home folder may be read-only
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"key": key, "content": content}))
    return content


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON file atomically; see ``replaced``."""
    write_text(path, json_text(content))


def json_text(content: dict[str, Any]) -> str:
    """Text of a JSON file; NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(content), indent=2, default=_plain, allow_nan=False) + "\n"


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically; see ``replaced``."""
    write_bytes(path, to_bytes(text))


def to_bytes(text: str) -> bytes:
    """Encodes as UTF-8; file names that are not valid UTF-8 keep their bytes on disk."""
    return text.encode(errors="surrogateescape")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Text of a CSV file whose lines end with a line feed.

    A text that a spreadsheet would run as a formula is prefixed with an apostrophe, as spreadsheets
    do themselves; ``csv_value`` removes it. Carriage returns are quoted; Python's ``csv.writer``
    does not quote them, and some readers then split the line.
    """
    return "".join(",".join(map(_cell, row)) + "\n" for row in rows)


def csv_value(text: str) -> str:
    """Original text of a cell that ``csv_text`` wrote."""
    return text[1:] if text[:1] == "'" and text[1:2] in _FORMULA else text


def _cell(value: Any) -> str:
    """A value as a CSV cell, quoted where needed; None is an empty cell."""
    text = "" if value is None else str(value)
    if text[:1] in _FORMULA and not _is_number(text):
        text = "'" + text
    if any(character in text for character in ',;"\r\n') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file atomically; see ``replaced``."""
    with replaced(path) as file:
        file.write(content)


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Opens a temporary binary file that replaces ``path`` when the block ends without an error.

    The content is synced to the disk before the file is renamed, so that neither a kill nor a power
    cut leaves a partial file. Concurrent writers do not affect each other. Links are followed: a
    link remains, and its target is replaced. The new file has the permissions of the old one.

    Raises:
        OSError: The file cannot be written. Its ``filename`` is ``path``, which is unchanged.
    """
    target = pathlib.Path(os.path.realpath(path))
    # File names have at most 255 bytes: a long name is cut to make room for the suffix.
    temporary = target.with_name(f"{target.name[:50]}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            with contextlib.suppress(OSError):
                os.fchmod(file.fileno(), target.stat().st_mode & 0o777)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException as error:  # KeyboardInterrupt too
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error


def stamp(status: os.stat_result) -> str:
    """Size and modification time of a file as text, which changes when the file is rewritten."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def is_unfinished(path: pathlib.Path) -> bool:
    """Whether a file is a temporary one that a killed ``write_bytes`` left."""
    return re.fullmatch(r".+\.\d+\.tmp", path.name) is not None


def remove_unfinished(folder: pathlib.Path) -> None:
    """Removes temporary files of killed writers from a folder; no process may be writing to it."""
    for path in folder.iterdir():
        if is_unfinished(path):
            path.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """A copy of a JSON value with None in place of non-finite numbers."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float | np.floating) and not np.isfinite(value):
        return None
    return value


def _plain(value: Any) -> Any:
    """A NumPy scalar as a Python number, for ``json.dumps``."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a JSON file")
