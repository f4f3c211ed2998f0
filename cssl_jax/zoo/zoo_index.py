"""Index of trained encoders: a JSON file or URL, with files of weights beside it."""

import dataclasses
import hashlib
import json
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from cssl_jax.errors import UserError, cut, short

EMBEDDED = pathlib.Path(__file__).parent / "files" / "index.json"
PREFIX = "zoo:"  # begins the name of an encoder of the embedded index where a file is expected
_FORMAT = 1
_MAX_INDEX, _MAX_FILE = 2**24, 2**34  # bytes
_TIMEOUT = 60.0  # seconds without an answer from a server
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_TEXTS = ("file", "sha256", "description", "command", "log", "license")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """A trained encoder.

    Attributes:
        name: Name in the index.
        file: Name of the file of weights, beside the index.
        bytes: Size of the file.
        sha256: SHA-256 of the file, in hex.
        description: What the encoder is, in one line.
        command: Command that trained it.
        config: Whole config of the run, as JSON.
        log: Metrics of the run in lines of JSON, one per evaluation.
        metrics: Metric -> value, such as {"linear.top1": 0.98}, of ``evaluate`` on the run's data.
        versions: Versions of the packages of the run.
        license: Terms of use.
    """

    name: str
    file: str
    bytes: int
    sha256: str
    description: str
    command: str
    config: dict[str, Any]
    log: str
    metrics: dict[str, float]
    versions: dict[str, str]
    license: str


@dataclasses.dataclass(frozen=True)
class ZooIndex:
    """Entries of an index by name.

    Attributes:
        place: File or URL of the index.
        entries: Name -> entry.
    """

    place: str
    entries: dict[str, ZooEntry]

    def entry(self, name: str) -> ZooEntry:
        """The entry of a name.

        Raises:
            UserError: There is none.
        """
        if name not in self.entries:
            names = ", ".join(self.entries) or "none"
            raise UserError(f"{self.place} has no encoder {name!r}; there are: {names}")
        return self.entries[name]

    def read(self, name: str) -> bytes:
        """The file of an entry, after its size and its SHA-256 have been compared.

        Raises:
            UserError: It cannot be read, or is another file than the index states.
        """
        entry = self.entry(name)
        place = _beside(self.place, entry.file)
        content = _read(place, entry.bytes)
        digest = hashlib.sha256(content).hexdigest()
        if len(content) != entry.bytes or digest != entry.sha256:
            raise UserError(
                f"{place} is not the file of the index: SHA-256 {digest}, and {entry.sha256} is "
                "stated; do not use it"
            )
        return content


def open_zoo(place: str = "") -> ZooIndex:
    """Reads an index of trained encoders.

    Args:
        place: Path, or http or https URL; "" is the index that comes with the package.

    Raises:
        UserError: It cannot be read, or is damaged.

    Example:
        >>> "digits" in open_zoo().entries
        True
    """
    place = place or str(EMBEDDED)
    text = _read(place, _MAX_INDEX)
    try:
        content = json.loads(text)
        version, encoders = content["format"], content["encoders"]
        if version == _FORMAT:
            entries = {name: _entry(name, fields) for name, fields in encoders.items()}
            return ZooIndex(place, entries)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{place} is no index of encoders: {cut(repr(error))}") from error
    raise UserError(f"{place} has format {short(version)}; this version reads {_FORMAT}")


def zoo_file(name: str) -> pathlib.Path:
    """File of an encoder of the embedded index, from "zoo:NAME".

    Raises:
        UserError: There is no such encoder.

    Example:
        >>> zoo_file("zoo:digits").name
        'digits.safetensors'
    """
    index = open_zoo()
    return EMBEDDED.with_name(index.entry(name.removeprefix(PREFIX)).file)


def _entry(name: str, fields: dict[str, Any]) -> ZooEntry:
    entry = ZooEntry(name=name, **fields)
    valid = (
        _NAME.fullmatch(name)
        and all(isinstance(getattr(entry, field), str) for field in _TEXTS)
        and _FILE.fullmatch(entry.file)
        and re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        and type(entry.bytes) is int
        and 0 < entry.bytes <= _MAX_FILE
        and all(isinstance(value, dict) for value in (entry.config, entry.metrics, entry.versions))
        and all(isinstance(value, int | float) for value in entry.metrics.values())
    )
    if not valid:
        raise ValueError(f"the entry {cut(name)} has a field that cannot be right")
    return entry


def _is_url(place: str) -> bool:
    return urllib.parse.urlsplit(place).scheme in ("http", "https")


def _beside(place: str, name: str) -> str:
    """Place of a file beside the index."""
    if _is_url(place):
        return urllib.parse.urljoin(place, name)
    return str(pathlib.Path(place).expanduser().with_name(name))


def _read(place: str, most: int) -> bytes:
    """Content of a file or URL of at most ``most`` bytes."""
    try:
        if _is_url(place):
            with urllib.request.urlopen(place, timeout=_TIMEOUT) as answer:
                content: bytes = answer.read(most + 1)
        else:
            with pathlib.Path(place).expanduser().open("rb") as file:
                content = file.read(most + 1)
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {place}: {reason}") from error
    if len(content) > most:
        raise UserError(f"{place} is larger than {most:,} bytes, which the index does not state")
    return content
