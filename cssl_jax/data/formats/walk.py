"""Finds files of one kind below a folder by suffix, and counts the other files."""

import collections
import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator

from cssl_jax.data.sources.decode import HEIF_SUFFIXES, is_image_name
from cssl_jax.errors import UserError
from cssl_jax.files import stamp

MAX_VISITS = 100  # maximum number of paths that links may open to one folder
# Folders of thumbnails and deleted files that file managers, network drives and cameras create.
JUNK_FOLDERS = frozenset(
    ("__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found", "thumbnails")
)
# Suffixes of text files. Nobody expects these to be read as images, so notes do not count them.
TEXTS = frozenset(
    (
        *(".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".yaml", ".yml"),
        *(".ini", ".db", ".log", ".py", ".url"),
    )
)


def walk(root: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yields (path relative to ``root``, stamp) of every file, in no particular order.

    Links are followed, except into a folder that is being walked. Hidden files, hidden folders and
    ``JUNK_FOLDERS`` are skipped.

    Raises:
        UserError: A sub-folder cannot be read, or links open more than ``MAX_VISITS`` paths to it.
    """
    pending = [("", frozenset[tuple[int, int]]())]
    visits: collections.Counter[tuple[int, int]] = collections.Counter()
    while pending:
        folder, above = pending.pop()
        for entry in _entries(root / folder):
            relative = f"{folder}{entry.name}"
            if entry.name.startswith("."):
                continue
            try:
                status = entry.stat()
            except OSError:
                continue  # a link whose target is missing
            if entry.is_dir():
                if entry.name.lower() in JUNK_FOLDERS:
                    continue
                identity = (status.st_dev, status.st_ino)
                visits[identity] += 1
                # If folders link to each other, the number of paths without a loop is exponential.
                if visits[identity] > MAX_VISITS:
                    raise UserError(
                        f"{root}: more than {MAX_VISITS} paths lead to {relative}; remove the "
                        "circular links"
                    )
                if identity not in above:
                    pending.append((relative + "/", above | {identity}))
            else:
                yield relative, stamp(status)


def walk_files(
    root: pathlib.Path, matches: Callable[[str], bool]
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Finds all files of one kind below a folder.

    Args:
        root: Folder.
        matches: Name of a file -> True if it is of the kind.

    Returns:
        (files, others): the sorted (relative path, stamp) of every file of the kind, and the number
        of other files per suffix in lower case, most frequent first.

    Raises:
        UserError: See ``walk``.
    """
    files, others = [], collections.Counter[str]()
    for relative, file_stamp in walk(root):
        if matches(relative):
            files.append((relative, file_stamp))
        else:
            others[pathlib.PurePath(relative).suffix.lower()] += 1
    return sorted(files), dict(others.most_common())


def has_images(root: pathlib.Path, count: int) -> bool:
    """True if a folder contains at least ``count`` images, at any depth.

    The walk ends at the first sub-folder that cannot be read.
    """
    with contextlib.suppress(UserError):
        for relative, _ in walk(root):
            count -= is_image_name(relative)
            if count <= 0:
                return True
    return False


def describe_others(others: dict[str, int], *, texts: bool = False) -> str:
    """Lists the files that are not read, such as "40 .heic (hint), 20 .dng".

    Args:
        others: Number of files per suffix.
        texts: True to include text files (``TEXTS``) and files without a suffix.

    Returns:
        Count, suffix and hint of up to eight suffixes; "" if there are no such files.
    """
    shown = {s: n for s, n in others.items() if texts or (s and s not in TEXTS)}
    parts = [
        f"{count:,} {suffix or 'without a suffix'}{_hint(suffix)}"
        for suffix, count in shown.items()
    ]
    more = f" and {len(parts) - 8} other suffixes" if len(parts) > 8 else ""
    return ", ".join(parts[:8]) + more


def note_on_others(root: str, others: dict[str, int], images: int) -> tuple[str, ...]:
    """Writes the note on files that may be images and are not read.

    Args:
        root: Path of the folder, for the note.
        others: Number of files that are not images, per suffix.
        images: Number of images.

    Returns:
        One sentence; () if there are no such files.
    """
    description = describe_others(others)
    count = sum(n for suffix, n in others.items() if suffix and suffix not in TEXTS)
    if not description:
        return ()
    return (f"{count:,} of {count + images:,} files of {root} are not read: {description}",)


def _hint(suffix: str) -> str:
    if suffix in HEIF_SUFFIXES:
        return " (`pip install pillow-heif` reads them)"
    if suffix in (".tar", ".zip", ".gz", ".tgz", ".parquet"):
        return " (an archive next to images; give it as data.source to read it)"
    return ""


def _entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(
            f"folder {folder} cannot be read: {error.strerror}; get access to it (chmod -R u+rX), "
            "or give a folder that does not contain it"
        ) from error
