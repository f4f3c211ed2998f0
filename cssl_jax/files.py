"""Files written in one piece, and the folder of what can be made again."""

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
_FORMULA = tuple("=+-@\t\r")  # what a cell begins with that a spreadsheet computes


def existing_run(run: str | pathlib.Path) -> pathlib.Path:
    """The absolute path of a run folder.

    Raises:
        UserError: It is none.
    """
    path = pathlib.Path(run).expanduser().absolute()
    if not (path / "config.json").is_file():
        within = sorted([*path.glob("*/config.json"), *path.glob("trials/*/config.json")])
        remedy = f"name one of the runs in it, such as {within[0].parent}" if within else ""
        raise UserError(
            f"{run} is no run folder: it has no config.json; {remedy or 'pretrain into it first'}"
        )
    return path


def cache_folder(name: str) -> pathlib.Path:
    """A folder below ~/.cache/cssl_jax (or $CSSL_JAX_CACHE); not made here, may be unwritable."""
    root = os.environ.get("CSSL_JAX_CACHE") or "~/.cache/cssl_jax"
    return pathlib.Path(root).expanduser() / name


def cached_json(key: str, make: Callable[[], T]) -> T:
    """What ``make`` gives, plain JSON, remembered by ``key`` in the folder of indices."""
    place = hashlib.blake2b(to_bytes(key), digest_size=10).hexdigest()
    path = cache_folder("index") / f"{place}.json"
    try:
        known = json.loads(path.read_text())
        if known["key"] == key:
            return known["content"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or damaged
    content = make()
    with contextlib.suppress(OSError):  # a read-only home is no reason to stop
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"key": key, "content": content}))
    return content


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON file in one piece: never half of it."""
    write_text(path, json_text(content))


def json_text(content: dict[str, Any]) -> str:
    """Content as the text of a JSON file; NaN and infinities, which JSON lacks, are null."""
    plain = _finite(content)
    return json.dumps(plain, indent=2, default=_plain, allow_nan=False) + "\n"


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file in one piece."""
    write_bytes(path, to_bytes(text))


def to_bytes(text: str) -> bytes:
    """UTF-8; file names that are in no encoding keep the bytes that they have on disk."""
    return text.encode(errors="surrogateescape")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as the text of a CSV file with lines that end in a line feed.

    A name that a spreadsheet would run as a formula gets an apostrophe in front, as spreadsheets
    themselves write it; ``csv_value`` takes it away. Carriage returns are quoted, which Python's
    ``csv.writer`` leaves to the reader's luck.
    """
    return "".join(",".join(map(_cell, row)) + "\n" for row in rows)


def csv_value(text: str) -> str:
    """The value of a cell of ``csv_text``."""
    return text[1:] if text[:1] == "'" and text[1:2] in _FORMULA else text


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    if text[:1] in _FORMULA and not _is_number(text):
        text = "'" + text
    if any(letter in text for letter in ',;"\r\n') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file in one piece; see ``replaced``."""
    with replaced(path) as file:
        file.write(content)


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` when the block ends without an error.

    The content is on the disk before the name is: neither a kill nor a power cut leaves half of it.
    Writers at the same time do not disturb each other. Links are followed: a link stays, and the
    file that it leads to is replaced. The new file has the permissions of the old one.

    Raises:
        OSError: It cannot be written; ``filename`` is ``path``, which is as it was.
    """
    target = pathlib.Path(os.path.realpath(path))
    # A name may have 255 bytes at most, so a long one is cut for its suffix.
    temporary = target.with_name(f"{target.name[:50]}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            with contextlib.suppress(OSError):
                os.fchmod(file.fileno(), target.stat().st_mode & 0o777)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException as error:  # an interrupt as well
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error


def stamp(status: os.stat_result) -> str:
    """Size and modification time of a file: other where it was written again."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def is_unfinished(path: pathlib.Path) -> bool:
    """Whether a file is one that ``write_bytes`` had begun when it was killed."""
    return re.fullmatch(r".+\.\d+\.tmp", path.name) is not None


def remove_unfinished(folder: pathlib.Path) -> None:
    """Removes what killed writers left in a folder; nobody may be writing there."""
    for path in folder.iterdir():
        if is_unfinished(path):
            path.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """The same with None in the place of every number that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float | np.floating) and not np.isfinite(value):
        return None
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a JSON file")
