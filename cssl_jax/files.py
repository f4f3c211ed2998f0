"""Files written in one piece, and the folder of what can be made again."""

import json
import os
import pathlib
from typing import Any

import numpy as np


def cache_folder(name: str) -> pathlib.Path:
    """A folder below ~/.cache/cssl_jax (or $CSSL_JAX_CACHE); not made here, may be unwritable."""
    root = os.environ.get("CSSL_JAX_CACHE") or "~/.cache/cssl_jax"
    return pathlib.Path(root).expanduser() / name


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON file in one piece: never half of it."""
    write_text(path, json.dumps(content, indent=2, default=_plain) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file in one piece."""
    write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file in one piece; writers at the same time do not disturb each other."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a JSON file")
