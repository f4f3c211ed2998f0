"""Files written in one piece, and the folder of what can be made again."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from cssl_jax.errors import UserError

T = TypeVar("T")


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


def check_output(path: pathlib.Path, suffix: str = "", *, option: str = "--output") -> None:
    """Refuses a file to write before any work is done.

    Args:
        path: Of the file.
        suffix: That it must have, such as ".png"; "" is any.
        option: Which named it.

    Raises:
        UserError: It has another, or its folder is not there.
    """
    if suffix and path.suffix != suffix:
        raise UserError(f"{option} {path} must end in {suffix}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: the folder does not exist; make it first")


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
    write_text(path, json.dumps(content, indent=2, default=_plain) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file in one piece."""
    write_bytes(path, to_bytes(text))


def to_bytes(text: str) -> bytes:
    """UTF-8; file names that are in no encoding keep the bytes that they have on disk."""
    return text.encode(errors="surrogateescape")


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file in one piece; writers at the same time do not disturb each other.

    The content is on the disk before the name is: neither a kill nor a power cut leaves half of it.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


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


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a JSON file")
