"""Shard files: found by a pattern, read from many threads by few descriptors."""

import collections
import dataclasses
import glob
import itertools
import os
import pathlib
import re
import threading
from collections.abc import Iterator, Sequence

from cssl_jax.data.formats.schema import PART_NAMES
from cssl_jax.errors import UserError
from cssl_jax.files import stamp

MAX_OPEN = 128  # descriptors of one set; many systems allow a process 1024


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file that holds many records.

    Attributes:
        name: Path with "/", relative to the folder that all shards lie below.
        path: Absolute.
        stamp: Size and modification time.
    """

    name: str
    path: pathlib.Path
    stamp: str

    def check(self, stat: os.stat_result) -> None:
        """Raises OSError where the file is no longer what it was."""
        if stamp(stat) != self.stamp:
            raise OSError(f"{self.path} has changed since it was indexed")


def open_shard(path: pathlib.Path, root: pathlib.Path) -> Shard:
    """A shard as it is now.

    Raises:
        UserError: It is missing.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}; copy it again") from error
    return Shard(path.relative_to(root).as_posix(), path, stamp(stat))


def find_shards(spec: str, suffix: str, instead: tuple[str, ...] = ()) -> tuple[Shard, ...]:
    """Shards of a file, a folder, a pattern (*, **, ?, []) or ranges ({000..012}, {a,b}), sorted.

    Args:
        spec: What a user wrote.
        suffix: Of the files of a folder.
        instead: Suffixes of files that are taken where a folder has none, for the caller to judge.

    Raises:
        UserError: There are none, one of a range is missing, or a folder mixes train and test.
    """
    place = pathlib.Path(spec).expanduser().absolute()
    if place.is_dir():
        names = sorted(name for name in os.listdir(place) if not name.startswith("."))
        found = [place / name for name in names if name.endswith(suffix)]
        found = found or [place / name for name in names if name.endswith(instead)]
        if not found:
            raise UserError(
                f"{spec} holds no {suffix} files; those further down are '{spec}/**/*{suffix}'"
            )
        _check_one_part(place, found, suffix)
        return tuple(open_shard(path, place) for path in found)
    if place.is_file():
        return (open_shard(place, place.parent),)
    paths: set[str] = set()
    for path in _expand_braces(str(place)):
        matches = glob.glob(path, recursive=True) if glob.has_magic(path) else [path]
        matches = [match for match in matches if os.path.isfile(match)]
        if not matches:
            raise UserError(f"there is no file {path}; give {suffix} files that exist")
        paths.update(matches)
    if not paths:
        raise UserError(f"{spec} counts down and names no file; write the lower number first")
    fixed = itertools.takewhile(lambda part: not re.search(r"[*?\[{]", part), place.parts[:-1])
    root = pathlib.Path(*fixed)
    return tuple(open_shard(pathlib.Path(path), root) for path in sorted(paths))


class ShardReader:
    """Reads pieces of shards; from many threads at once, with at most ``max_open`` kept open."""

    def __init__(self, shards: Sequence[Shard], max_open: int = MAX_OPEN) -> None:
        self._shards = shards
        self._max_open = max_open
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[int, _Descriptor] = collections.OrderedDict()

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """``size`` bytes of a shard by number.

        Raises:
            OSError: They cannot be read, or the file is not what it was when it was opened first.
        """
        descriptor = self._descriptor(shard)
        parts = []
        while size:
            part = os.pread(descriptor.number, size, offset)
            if not part:
                raise OSError(f"{self._shards[shard].path} ends at byte {offset}, early")
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def _descriptor(self, shard: int) -> "_Descriptor":
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        descriptor = _Descriptor(self._shards[shard])
        with self._lock:
            # A descriptor that another thread still reads from closes when that thread lets it go.
            descriptor = self._open.setdefault(shard, descriptor)
            while len(self._open) > self._max_open:
                self._open.popitem(last=False)
        return descriptor


class _Descriptor:
    """An open file that closes with the last reference to it."""

    def __init__(self, shard: Shard) -> None:
        self.number = -1
        self.number = os.open(shard.path, os.O_RDONLY)
        shard.check(os.fstat(self.number))

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


def _expand_braces(text: str) -> Iterator[str]:
    """{000..012} counts with the zeros it is written with, {a,b} lists; others stay."""
    for match in re.finditer(r"\{([^{}]*)\}", text):
        bounds = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
        if bounds:
            low, high = int(bounds[1]), int(bounds[2])
            width = len(bounds[1]) if bounds[1].startswith("0") else 0
            choices = [f"{number:0{width}}" for number in range(low, high + 1)]
        elif "," in match[1]:
            choices = match[1].split(",")
        else:
            continue
        for choice in choices:
            yield from _expand_braces(text[: match.start()] + choice + text[match.end() :])
        return
    yield text


def _check_one_part(folder: pathlib.Path, paths: list[pathlib.Path], suffix: str) -> None:
    """Training on what is tested on is the worst that a folder of shards can do unnoticed."""
    words = {path: PART_NAMES & set(re.split(r"[^a-z]+", path.name.lower())) for path in paths}
    parts = set().union(*words.values())
    if len(parts) > 1:
        patterns = " or ".join(f"'{folder}/*{part}*{suffix}'" for part in sorted(parts))
        raise UserError(
            f"{folder} holds files of {' and '.join(sorted(parts))}; say which: {patterns}"
        )
