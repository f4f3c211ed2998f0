"""Shard files: lookup by pattern, and reading from many threads with few open files."""

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
from cssl_jax.data.formats.walk import has_images
from cssl_jax.errors import UserError
from cssl_jax.files import stamp

# Maximum number of open files per data set; many systems allow 1024 per process.
MAX_OPEN = 128


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file that contains many records.

    Attributes:
        name: Path with "/", relative to the common parent folder of all shards.
        path: Absolute path.
        stamp: Size and modification time of the file at the time it was opened.
    """

    name: str
    path: pathlib.Path
    stamp: str

    def check(self, stat: os.stat_result) -> None:
        """Compares the current status of the file with the stamp.

        Raises:
            OSError: The size or modification time has changed.
        """
        if stamp(stat) != self.stamp:
            raise OSError(f"{self.path} has changed since it was indexed")


def open_shard(path: pathlib.Path, root: pathlib.Path) -> Shard:
    """Creates the ``Shard`` of a file, with its present size and modification time.

    Raises:
        UserError: The file is missing or cannot be accessed.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}; copy it again") from error
    return Shard(path.relative_to(root).as_posix(), path, stamp(stat))


def find_shards(
    spec: str, suffix: str, fallback_suffixes: tuple[str, ...] = ()
) -> tuple[Shard, ...]:
    """Finds shards by a file, folder, pattern (*, **, ?, []) or range ({000..012}, {a,b}), sorted.

    Args:
        spec: Path or pattern that the user gives.
        suffix: Suffix of the shards in a folder, such as ".tar".
        fallback_suffixes: Suffixes of the files to return if a folder has none with ``suffix``.
            The caller decides whether these can be read.

    Raises:
        UserError: There are no shards, one of a range is missing, or a folder contains more than
            one split.
    """
    location = pathlib.Path(spec).expanduser().absolute()
    if location.is_dir():
        names = sorted(name for name in os.listdir(location) if not name.startswith("."))
        files = [location / name for name in names if name.endswith(suffix)]
        files = files or [location / name for name in names if name.endswith(fallback_suffixes)]
        if not files:
            raise UserError(
                f"{spec} contains no {suffix} files; for files in sub-folders give "
                f"'{spec}/**/*{suffix}'"
            )
        _check_single_split(location, files, suffix)
        return tuple(open_shard(path, location) for path in files)
    if location.is_file():
        return (open_shard(location, location.parent),)
    paths: set[str] = set()
    for path in _expand_braces(str(location)):
        matches = glob.glob(path, recursive=True) if glob.has_magic(path) else [path]
        matches = [match for match in matches if os.path.isfile(match)]
        if not matches:
            raise UserError(f"there is no file {path}; give {suffix} files that exist")
        paths.update(matches)
    if not paths:
        raise UserError(f"{spec} counts down and matches no file; write the lower number first")
    fixed = itertools.takewhile(lambda part: not re.search(r"[*?\[{]", part), location.parts[:-1])
    root = pathlib.Path(*fixed)
    return tuple(open_shard(pathlib.Path(path), root) for path in sorted(paths))


def count_shards(folder: pathlib.Path, suffix: str) -> int:
    """Number of files with a suffix directly in a folder, without hidden ones."""
    names = [path.name for path in folder.iterdir() if path.suffix == suffix]
    return sum(not name.startswith(".") for name in names)


def holds_shards(folder: pathlib.Path, suffix: str) -> bool:
    """True if a folder is read as shards: it has some, and fewer images than shards.

    One archive next to folders of images must not replace them, nor a preview image hundreds of
    shards. A dataset_info.json is that of a prepared TFDS set, or lies beside images.
    """
    if (folder / "dataset_info.json").is_file():
        return False
    count = count_shards(folder, suffix)
    return count > 0 and not has_images(folder, count)


def note_on_images(folder: str) -> tuple[str, ...]:
    """Note for a folder that is read as shards and has images too."""
    if not has_images(pathlib.Path(folder), 1):
        return ()
    return (f"images next to the shards of {folder} are not read",)


class ShardReader:
    """Reads byte ranges of shards, from many threads at once; keeps ``max_open`` files open."""

    def __init__(self, shards: Sequence[Shard], max_open: int = MAX_OPEN) -> None:
        """Opens no file yet.

        Args:
            shards: Files to read from.
            max_open: Maximum number of files that stay open; the least recently used one is closed
                first.
        """
        self._shards = shards
        self._max_open = max_open
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[int, _Descriptor] = collections.OrderedDict()

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Reads ``size`` bytes from byte ``offset`` of the shard with index ``shard``.

        Raises:
            OSError: The bytes cannot be read, or the file has changed since it was indexed.
        """
        descriptor = self._descriptor(shard)
        chunks = []
        while size:
            # pread neither uses nor moves the file position, so that threads can share the file.
            chunk = os.pread(descriptor.number, size, offset)
            if not chunk:
                raise OSError(f"{self._shards[shard].path} ends early, at byte {offset}")
            chunks.append(chunk)
            offset, size = offset + len(chunk), size - len(chunk)
        return b"".join(chunks)

    def _descriptor(self, shard: int) -> "_Descriptor":
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        descriptor = _Descriptor(self._shards[shard])
        with self._lock:
            # A descriptor in use by another thread closes when that thread drops its reference.
            descriptor = self._open.setdefault(shard, descriptor)
            while len(self._open) > self._max_open:
                self._open.popitem(last=False)
        return descriptor


class _Descriptor:
    """File descriptor that is closed with the last reference to it."""

    def __init__(self, shard: Shard) -> None:
        self.number = -1  # __del__ also runs if os.open raises
        self.number = os.open(shard.path, os.O_RDONLY)
        shard.check(os.fstat(self.number))

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


def _expand_braces(text: str) -> Iterator[str]:
    """Expands {000..012} (with its leading zeros) and {a,b} as a shell does.

    A range that counts down yields nothing. Other braces are kept.
    """
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


def _check_single_split(folder: pathlib.Path, paths: list[pathlib.Path], suffix: str) -> None:
    """Refuses a folder with shards of several splits, which would train on test images unnoticed.

    Raises:
        UserError: The names of the files contain the names of two or more splits.
    """
    splits = set[str]()
    for path in paths:
        splits |= PART_NAMES & set(re.split(r"[^a-z]+", path.name.lower()))
    if len(splits) > 1:
        patterns = " or ".join(f"'{folder}/*{split}*{suffix}'" for split in sorted(splits))
        raise UserError(
            f"{folder} contains files of {' and '.join(sorted(splits))}; choose one: {patterns}"
        )
