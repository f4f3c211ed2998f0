"""The files below a folder: images by their suffix, and how many others there are."""

import collections
import contextlib
import os
import pathlib
from collections.abc import Iterator

from cssl_jax.data.sources.decode import HEIF_SUFFIXES, is_image_name
from cssl_jax.errors import UserError
from cssl_jax.files import stamp

MAX_VISITS = 100  # of one folder, by links
# What file managers, network drives and cameras leave beside images: thumbnails and deleted files.
JUNK_FOLDERS = frozenset(
    ("__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found", "thumbnails")
)
# Suffixes that no image has: texts beside images, which nobody expects to be read.
TEXTS = frozenset(
    (
        *(".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".yaml", ".yml"),
        *(".ini", ".db", ".log", ".py", ".url"),
    )
)


def walk(root: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(path relative to ``root``, stamp) of every file; links are followed, loops are not.

    Hidden files and folders, and those of ``JUNK_FOLDERS``, are omitted.

    Raises:
        UserError: A sub-folder cannot be read, or links multiply the ways to one.
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
                continue  # a link to nowhere
            if entry.is_dir():
                if entry.name.lower() in JUNK_FOLDERS:
                    continue
                place = (status.st_dev, status.st_ino)
                visits[place] += 1
                if visits[place] > MAX_VISITS:  # folders that link to each other: ways multiply
                    raise UserError(
                        f"{root}: more than {MAX_VISITS} ways lead to {relative}; remove the "
                        "links that go round"
                    )
                if place not in above:
                    pending.append((relative + "/", above | {place}))
            else:
                yield relative, stamp(status)


def walk_images(root: pathlib.Path) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """(sorted (relative path, stamp) of all images, number of other files by suffix)."""
    found, others = [], collections.Counter[str]()
    for relative, mark in walk(root):
        if is_image_name(relative):
            found.append((relative, mark))
        else:
            others[pathlib.PurePath(relative).suffix.lower()] += 1
    return sorted(found), dict(others.most_common())


def has_images(root: pathlib.Path, count: int) -> bool:
    """Whether a folder holds at least so many images, at any depth, as far as it can be read."""
    with contextlib.suppress(UserError):
        for relative, _ in walk(root):
            count -= is_image_name(relative)
            if count <= 0:
                return True
    return False


def describe_others(others: dict[str, int], *, texts: bool = False) -> str:
    """Files that are not read, by suffix and with what helps: "40 .heic (...), 20 .dng".

    Args:
        others: Number of files by suffix.
        texts: Whether to count texts (``TEXTS``) as well.
    """
    shown = {s: n for s, n in others.items() if texts or (s and s not in TEXTS)}
    parts = [
        f"{count:,} {suffix or 'without a suffix'}{_hint(suffix)}"
        for suffix, count in shown.items()
    ]
    more = f" and {len(parts) - 8} other suffixes" if len(parts) > 8 else ""
    return ", ".join(parts[:8]) + more


def note_on_others(root: str, others: dict[str, int], images: int) -> tuple[str, ...]:
    """The sentence on files that may be images and are not read; () where there are none."""
    told = describe_others(others)
    count = sum(n for suffix, n in others.items() if suffix and suffix not in TEXTS)
    if not told:
        return ()
    return (f"{count:,} of {count + images:,} files of {root} are not read: {told}",)


def _hint(suffix: str) -> str:
    if suffix in HEIF_SUFFIXES:
        return " (`pip install pillow-heif` reads them)"
    if suffix in (".tar", ".zip", ".gz", ".tgz", ".parquet"):
        return " (an archive beside images; give it as data.source to read it)"
    return ""


def _entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(
            f"folder {folder} cannot be read: {error.strerror}; get access to it (chmod -R u+rX), "
            "or give a folder without it"
        ) from error
