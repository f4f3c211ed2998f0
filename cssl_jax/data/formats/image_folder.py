"""Folders and lists of picture files."""

import codecs
import csv
import dataclasses
import io
import os
import pathlib
import re
import stat
from collections.abc import Iterable, Iterator

import numpy as np

from cssl_jax.data.formats.layout import check_are_classes, why_unlabelled
from cssl_jax.data.formats.schema import is_whole_number, note_on_no_label, number_labels, short
from cssl_jax.data.formats.walk import describe_others, note_on_others, walk_images
from cssl_jax.errors import UserError
from cssl_jax.files import csv_value, stamp

PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image", "image_path", "img_path", "name"),
)
LABEL_COLUMNS = (
    *("label", "class", "category", "target", "labels"),
    *("class_name", "label_name", "category_name", "class_id", "classid", "category_id"),
)
NAME_COLUMNS = ("class", "class_name", "label_name", "category_name")  # beside numbers
MAX_BYTES = 2**30  # of a picture's file; data.max_pixels can only judge what was read


@dataclasses.dataclass(frozen=True)
class FileRecords:
    """Picture files; ``Records`` of a folder or a list.

    Attributes:
        name: The folder or list.
        root: What the names are relative to.
        names: Relative paths with "/".
        stamps: Size and modification time.
        labels: int64 [size], -1 for none; or None.
        classes: Names of the labels.
        notes: Sentences on what was read and what was not.
        not_read: Number of other files of the folder by suffix.
    """

    name: str
    root: pathlib.Path
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    not_read: dict[str, int] = dataclasses.field(default_factory=dict)

    def path(self, index: int) -> pathlib.Path:
        """Of the file."""
        return self.root / self.names[index]

    def read(self, index: int) -> bytes:
        """The file's bytes.

        Raises:
            OSError: It cannot be read, is no file (a pipe would never end), or is too large.
        """
        return read_regular(self.path(index))


def read_regular(path: pathlib.Path) -> bytes:
    """The bytes of a file of an image.

    Raises:
        OSError: It cannot be read, is no file (a pipe would never end), or is too large.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("no regular file")
        if status.st_size > MAX_BYTES:
            raise OSError(f"{status.st_size:,} bytes, at most {MAX_BYTES:,}")
        return file.read(status.st_size)  # not to MAX_BYTES: so much memory would be asked for


def open_folder(path: str | pathlib.Path, labels: str = "auto") -> FileRecords:
    """Opens the picture files of a folder, at any depth; other files are ignored by their names.

    Args:
        path: The folder.
        labels: "auto": the first folder level is the class, where every picture lies in one of two
            or more; else nothing is labelled. "folder": insist on that. "none": no labels. Anything
            else: path of a CSV file with columns path (relative to the folder) and label; pictures
            that it does not name have none.

    Raises:
        UserError: There are no pictures, or the labels do not fit them.
    """
    root = pathlib.Path(path).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"{path} is no folder; give the folder that holds the pictures")
    found, others = walk_images(root)
    if not found:
        held = describe_others(others, texts=True)
        raise UserError(
            f"{path} holds no images (.jpg, .png, .webp, .bmp, .gif, .tif or .ppm files)"
            f"{held and f', only {held}'}; "
            f"shards further down are given by a pattern such as '{path}/**/*.tar'"
        )
    names, stamps = zip(*found, strict=True)
    notes = note_on_others(str(root), others, len(names))
    records = FileRecords(str(root), root, names, stamps, notes=notes, not_read=others)
    if labels == "none":
        return records
    if labels not in ("auto", "folder"):
        return _with_table(records, pathlib.Path(labels).expanduser())
    return _by_sub_folders(records, path, insist=labels == "folder")


def _by_sub_folders(records: FileRecords, path: str | pathlib.Path, *, insist: bool) -> FileRecords:
    """The records with their first folder level as classes, or a note on why there are none."""
    tops = [name.partition("/")[0] if "/" in name else "" for name in records.names]
    classes = tuple(sorted(set(tops)))
    check_are_classes(path, [name for name in classes if name])
    if "" not in classes and len(classes) > 1:
        numbers = {name: number for number, name in enumerate(classes)}
        return dataclasses.replace(
            records, labels=np.array([numbers[top] for top in tops]), classes=classes
        )
    reason = why_unlabelled(path, records.names)
    if insist:
        stray = f"{records.names[tops.index('')]} lies in none" if "" in classes else ""
        way_out = reason.partition("; ")[2] or "sort them by class"
        raise UserError(
            f"data.labels=folder needs two or more sub-folders that hold every image of {path}; "
            f"{stray or 'there is only one'}; {way_out}, or omit data.labels"
        )
    return dataclasses.replace(records, notes=(*records.notes, reason)) if reason else records


def open_list(path: str | pathlib.Path) -> FileRecords:
    """Opens the picture files that a CSV file names: path (relative to it), label, class.

    Raises:
        UserError: It is no such list, or a file is missing.
    """
    table = pathlib.Path(path).expanduser().absolute()
    rows, others = _read_table(table)
    missing, stamps = [], []
    for name, _, _ in rows:
        try:
            stamps.append(stamp((table.parent / name).stat()))
        except (OSError, ValueError):  # a name with a zero byte
            missing.append(name)
    if missing:
        raise UserError(f"{path} names {_some(missing)}, which cannot be found beside it")
    names = tuple(name for name, _, _ in rows)
    notes = note_on_no_label("columns", others, "call it 'label'")
    records = FileRecords(str(table), table.parent, names, tuple(stamps), notes=notes)
    return _labelled(records, {name: (label, kind) for name, label, kind in rows}, str(table))


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else a pipe without a writer waits for one


def _with_table(records: FileRecords, table: pathlib.Path) -> FileRecords:
    rows = [
        (_within(name, records.root), label, kind)
        for name, label, kind in _read_table(table, labelled=True)[0]
    ]
    unknown = sorted({name for name, _, _ in rows} - set(records.names))
    if unknown:
        raise UserError(f"{table} names {_some(unknown)}, which {records.name} does not hold")
    return _labelled(records, {name: (label, kind) for name, label, kind in rows}, str(table))


def _within(name: str, root: pathlib.Path) -> str:
    """An absolute path that lies in a folder, relative to it; others as they are."""
    path = pathlib.PurePath(name)
    if not path.is_absolute():
        return name
    for folder in (root, root.resolve()):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return name


def _labelled(records: FileRecords, table: dict[str, tuple[str, str]], where: str) -> FileRecords:
    given = [table.get(name, ("", ""))[0] for name in records.names]
    numbered = all(is_whole_number(label) for label in given if label)
    values = [int(label) if label and numbered else label for label in given]
    labels, classes = number_labels(values, where)
    if labels is None:
        return records
    kinds = {label: kind for label, kind in table.values() if kind}
    if all(kind == kinds[label] for label, kind in table.values() if kind):
        classes = tuple(kinds.get(name, name) for name in classes)
    return dataclasses.replace(records, labels=labels, classes=classes)


def _read_table(
    path: pathlib.Path, *, labelled: bool = False
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Rows (path, label, class name) of a CSV file with a header.

    Returns:
        The rows, and the names of all other columns where none of them is the label.

    Raises:
        UserError: It is no such file, or has no column of labels where these are asked for.
    """
    try:
        text = _decoded(path.read_bytes())
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read as a list of images: {error}") from error
    head = re.split(r"[\r\n]", text, maxsplit=1)[0]
    separator = max(",;\t", key=head.count)
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True
    )
    columns = {column.strip().lower(): column for column in reader.fieldnames or ()}
    place = next((columns[name] for name in PATH_COLUMNS if name in columns), None)
    if place is None:
        raise UserError(
            f"{path} has the columns {_columns(columns)}, none of which names the images "
            f"({', '.join(PATH_COLUMNS)}); its first line must say path,label"
        )
    label = next((columns[name] for name in LABEL_COLUMNS if name in columns), None)
    if labelled and label is None:
        raise UserError(
            f"{path} has the columns {_columns(columns)}, none of which is the label "
            f"({', '.join(LABEL_COLUMNS)}); call one of them 'label', and write one-hot columns as "
            "one column with the name of the class"
        )
    kind = next((columns[name] for name in NAME_COLUMNS if columns.get(name, label) != label), None)
    rows: dict[str, tuple[str, str, str]] = {}
    for line in _lines(reader, path):
        name = pathlib.PurePath(csv_value((line[place] or "").strip())).as_posix()
        values = [csv_value((line[c] or "").strip()) if c else "" for c in (label, kind)]
        row = (name, values[0], values[1])
        if rows.setdefault(name, row) != row:
            raise UserError(
                f"{path} gives {_some([name])} twice with other labels; keep one of the lines"
            )
    if not rows:
        raise UserError(f"{path} names no pictures")
    return list(rows.values()), [] if label else [c for c in columns.values() if c != place]


def _decoded(content: bytes) -> str:
    """UTF-8, or UTF-16 as spreadsheets write it; other bytes as in names of files."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    if content[1:2] == b"\0" or content[:1] == b"\0":  # without its mark
        order = "le" if content[1:2] == b"\0" else "be"
        return content.decode(f"utf-16-{order}")
    return content.decode("utf-8-sig", errors="surrogateescape")


def _columns(columns: Iterable[str]) -> str:
    names = list(columns)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(short, names[:8])) + more


def _lines(reader: csv.DictReader, path: pathlib.Path) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}; is a quote left open?"
        ) from error


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name if len(name) <= 200 else short(name) for name in names[:3]) + more
