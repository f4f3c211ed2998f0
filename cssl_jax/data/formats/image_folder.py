"""Files in a folder or in a CSV list: images, or another kind such as recordings."""

import codecs
import csv
import dataclasses
import io
import os
import pathlib
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.layout import check_are_classes, why_unlabelled
from cssl_jax.data.formats.registry import FormatEntry
from cssl_jax.data.formats.schema import is_whole_number, note_on_no_label, number_labels
from cssl_jax.data.formats.walk import describe_others, note_on_others, walk_files
from cssl_jax.data.sources.decode import is_image_name
from cssl_jax.errors import UserError, short
from cssl_jax.files import csv_value, stamp

PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image", "image_path", "img_path", "name"),
)
LABEL_COLUMNS = (
    *("label", "class", "category", "target", "labels"),
    *("class_name", "label_name", "category_name", "class_id", "classid", "category_id"),
)
# Columns with the name of a class, for tables whose label column holds its number.
NAME_COLUMNS = ("class", "class_name", "label_name", "category_name")
# Columns with the origin of a file, which no split divides.
GROUP_COLUMNS = ("group", "speaker", "patient", "subject")
# Maximum size of an image file. data.max_pixels applies only after the file has been read.
MAX_BYTES = 2**30


class FileKind(NamedTuple):
    """Kind of files that a folder is searched for.

    Attributes:
        noun: Plural noun for messages.
        suffixes: Suffixes for messages.
        matches: Name of a file -> True if it has such a suffix.
    """

    noun: str
    suffixes: str
    matches: Callable[[str], bool]


class Row(NamedTuple):
    """Line of a list of files; "" is a missing value."""

    name: str
    label: str
    class_name: str
    group: str


IMAGE_FILES = FileKind("images", ".jpg, .png, .webp, .bmp, .gif, .tif or .ppm files", is_image_name)


@dataclasses.dataclass(frozen=True)
class FileRecords:
    """Files of a folder or a list, such as images, as ``Records``.

    Attributes:
        name: Absolute path of the folder or list.
        root: Folder that the names are relative to.
        names: Relative path of every image file, with "/".
        stamps: Size and modification time of every image file.
        labels: int64 [size], class number of every image, -1 for no label; None if no image has a
            label.
        classes: Class names in the order of the class numbers.
        notes: Sentences for the user about labels and files that are not read.
        not_read: Number of files of the folder that are not images, per suffix.
        groups: Group of every file, such as a speaker; None if a list has no such column.
        noun: Plural noun for the files in messages.
    """

    name: str
    root: pathlib.Path
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    not_read: dict[str, int] = dataclasses.field(default_factory=dict)
    groups: tuple[str, ...] | None = None
    noun: str = "images"

    def path(self, index: int) -> pathlib.Path:
        """Path of one image file."""
        return self.root / self.names[index]

    def read(self, index: int) -> bytes:
        """Reads the bytes of one image file.

        Raises:
            OSError: The file cannot be read, is not a regular file, or exceeds ``MAX_BYTES``.
        """
        return read_regular(self.path(index))


def read_regular(path: pathlib.Path) -> bytes:
    """Reads the bytes of a regular file.

    Pipes and devices are refused, because reading one may never end.

    Raises:
        OSError: The file cannot be read, is not a regular file, or exceeds ``MAX_BYTES``.
    """
    with open(path, "rb", opener=_open_without_blocking) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise OSError(f"{status.st_size:,} bytes, at most {MAX_BYTES:,}")
        # read(n) allocates n bytes, so that read(MAX_BYTES) would allocate 1 GiB per file.
        return file.read(status.st_size)


def open_folder(
    path: str | pathlib.Path, labels: str = "auto", kind: FileKind = IMAGE_FILES
) -> FileRecords:
    """Opens the files of a folder, at any depth. Files with other suffixes are ignored.

    Args:
        path: Folder with the files.
        labels: Source of the labels. "auto": the first level of sub-folders is the class if there
            are two or more and every image is in one, else there are no labels. "folder": the same,
            but an error where "auto" gives no labels. "none": no labels. Anything else: path of a
            CSV file with columns path (relative to the folder) and label; images that it does not
            list have no label.
        kind: Kind of the files, images by default.

    Raises:
        UserError: The folder has no such files, or the labels do not fit them.
    """
    root = pathlib.Path(path).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"{path} is not a folder; give the folder that contains the {kind.noun}")
    files, suffix_counts = walk_files(root, kind.matches)
    if not files:
        other_files = describe_others(suffix_counts, texts=True)
        raise UserError(
            f"{path} contains no {kind.noun} ({kind.suffixes})"
            f"{other_files and f', only {other_files}'}; "
            f"for shards in sub-folders give a pattern such as '{path}/**/*.tar'"
        )
    names, stamps = zip(*files, strict=True)
    notes = note_on_others(str(root), suffix_counts, len(names))
    records = FileRecords(
        *(str(root), root, names, stamps), notes=notes, not_read=suffix_counts, noun=kind.noun
    )
    if labels == "none":
        return records
    if labels not in ("auto", "folder"):
        return _label_by_table(records, pathlib.Path(labels).expanduser())
    return _label_by_sub_folder(records, path, insist=labels == "folder")


def _label_by_sub_folder(
    records: FileRecords, path: str | pathlib.Path, *, insist: bool
) -> FileRecords:
    """Labels records by their first sub-folder, or adds a note that says why this is impossible.

    Raises:
        UserError: The sub-folders are splits or masks, or ``insist`` and they are not classes.
    """
    tops = [name.partition("/")[0] if "/" in name else "" for name in records.names]
    classes = tuple(sorted(set(tops)))
    check_are_classes(path, [name for name in classes if name])
    if "" not in classes and len(classes) > 1:
        numbers = {name: number for number, name in enumerate(classes)}
        return dataclasses.replace(
            records, labels=np.array([numbers[top] for top in tops]), classes=classes
        )
    reason = why_unlabelled(path, records.names, records.noun)
    if insist:
        stray = f"{records.names[tops.index('')]} is in none" if "" in classes else ""
        remedy = (
            reason.partition("; ")[2] or f"sort the {records.noun} into one sub-folder per class"
        )
        raise UserError(
            f"data.labels=folder needs two or more sub-folders that contain all {records.noun} of "
            f"{path}; "
            f"{stray or 'there is only one'}; {remedy}, or omit data.labels"
        )
    return dataclasses.replace(records, notes=(*records.notes, reason)) if reason else records


def open_list(path: str | pathlib.Path, noun: str = "images") -> FileRecords:
    """Opens the files that a CSV file lists.

    Args:
        path: CSV file with the columns path (relative to the folder of the CSV file) and, optional,
            label (class number or name), class (name of a class number) and group.
        noun: Plural noun for the files in messages.

    Raises:
        UserError: The file is not such a list, or a file is missing.
    """
    table = pathlib.Path(path).expanduser().absolute()
    rows, other_columns = _read_table(table, noun=noun)
    missing, stamps = [], []
    for row in rows:
        try:
            stamps.append(stamp((table.parent / row.name).stat()))
        except (OSError, ValueError):  # a name with a zero byte
            missing.append(row.name)
    if missing:
        raise UserError(
            f"{path} lists {_abbreviated(missing)}, which {table.parent} does not contain; give "
            "paths relative to the folder of the list"
        )
    names = tuple(row.name for row in rows)
    notes = note_on_no_label("columns", other_columns, "rename it to 'label'")
    groups = tuple(row.group for row in rows) if any(row.group for row in rows) else None
    records = FileRecords(
        *(str(table), table.parent, names, tuple(stamps)), notes=notes, groups=groups, noun=noun
    )
    return _labelled(records, {row.name: (row.label, row.class_name) for row in rows}, str(table))


def _open_without_blocking(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe blocks until another process opens it for writing.
    return os.open(path, flags | os.O_NONBLOCK)


def _label_by_table(records: FileRecords, table: pathlib.Path) -> FileRecords:
    rows = {
        _relative_to(records.root, row.name): (row.label, row.class_name)
        for row in _read_table(table, labelled=True, noun=records.noun)[0]
    }
    unknown = sorted(set(rows) - set(records.names))
    if unknown:
        raise UserError(
            f"{table} lists {_abbreviated(unknown)}, which {records.name} does not contain; give "
            "paths relative to that folder"
        )
    return _labelled(records, rows, str(table))


def _relative_to(root: pathlib.Path, name: str) -> str:
    """Makes an absolute path inside ``root`` relative to it; returns other paths unchanged."""
    path = pathlib.PurePath(name)
    if not path.is_absolute():
        return name
    for folder in (root, root.resolve()):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return name


def _labelled(records: FileRecords, table: dict[str, tuple[str, str]], where: str) -> FileRecords:
    """Adds labels from a table {name: (label, class name)}; "" stands for a missing entry."""
    texts = [table.get(name, ("", ""))[0] for name in records.names]
    numbered = all(is_whole_number(label) for label in texts if label)
    values = [int(label) if label and numbered else label for label in texts]
    labels, classes = number_labels(values, where)
    if labels is None:
        return records
    class_names = {label: class_name for label, class_name in table.values() if class_name}
    # The second column holds class names only if every label has one name throughout.
    if all(class_name == class_names[label] for label, class_name in table.values() if class_name):
        classes = tuple(class_names.get(name, name) for name in classes)
    return dataclasses.replace(records, labels=labels, classes=classes)


def _read_table(
    path: pathlib.Path, *, labelled: bool = False, noun: str = "images"
) -> tuple[list[Row], list[str]]:
    """Reads a CSV file with a header; the separator is "," or ";" or a tab.

    Args:
        path: The CSV file.
        labelled: True if the file must have a label column.
        noun: Plural noun for the files in messages.

    Returns:
        (rows, other columns). The other columns are all columns but path and group if there is no
        label column, else [].

    Raises:
        UserError: The file cannot be read, has no path column, lists a file twice with different
            labels, lists no file, or lacks a label column that is required.
    """
    try:
        text = _decoded(path.read_bytes())
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read as a list of {noun}: {error}") from error
    header = re.split(r"[\r\n]", text, maxsplit=1)[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True
    )
    columns = {column.strip().lower(): column for column in reader.fieldnames or ()}
    path_column = next((columns[name] for name in PATH_COLUMNS if name in columns), None)
    if path_column is None:
        raise UserError(
            f"{path} has the columns {_columns(columns)}, none of which is the path of one of the "
            f"{noun} ({', '.join(PATH_COLUMNS)}); the first line of the file must be path,label"
        )
    label = next((columns[name] for name in LABEL_COLUMNS if name in columns), None)
    if labelled and label is None:
        raise UserError(
            f"{path} has the columns {_columns(columns)}, none of which is the label "
            f"({', '.join(LABEL_COLUMNS)}); rename one of them to 'label', and replace one-hot "
            "columns by one column with the class name"
        )
    class_column = next(
        (columns[name] for name in NAME_COLUMNS if columns.get(name, label) != label), None
    )
    group = next((columns[name] for name in GROUP_COLUMNS if name in columns), None)
    rows: dict[str, Row] = {}
    for line in _lines(reader, path):
        name = pathlib.PurePath(csv_value((line[path_column] or "").strip())).as_posix()
        values = (label, class_column, group)
        row = Row(name, *(csv_value((line[c] or "").strip()) if c else "" for c in values))
        if rows.setdefault(name, row) != row:
            raise UserError(
                f"{path} lists {_abbreviated([name])} twice with different labels; keep one of the "
                "lines"
            )
    if not rows:
        raise UserError(f"{path} lists no {noun}; add one line per file below the header")
    others = [] if label else [c for c in columns.values() if c not in (path_column, group)]
    return list(rows.values()), others


def _decoded(content: bytes) -> str:
    """Decodes UTF-8, or UTF-16 as spreadsheets write it.

    Bytes that are not UTF-8 become surrogates, as in ``os.fsdecode``, so that file names in other
    encodings still match.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    if content[1:2] == b"\0" or content[:1] == b"\0":  # UTF-16 without a byte order mark
        order = "le" if content[1:2] == b"\0" else "be"
        return content.decode(f"utf-16-{order}")
    return content.decode("utf-8-sig", errors="surrogateescape")


def _columns(columns: Iterable[str]) -> str:
    names = list(columns)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(short, names[:8])) + more


def _lines(reader: "csv.DictReader[str]", path: pathlib.Path) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}; check for an unclosed quote"
        ) from error


def _abbreviated(names: list[str]) -> str:
    """Up to three names for a message, and the number of the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name if len(name) <= 200 else short(name) for name in names[:3]) + more


def _open_list(path: str, options: ImageOptions) -> FileRecords:
    return open_list(path)


def _open_folder(path: str, options: ImageOptions) -> FileRecords:
    return open_folder(path, labels=options.labels)


LIST = FormatEntry(open=_open_list, description="a .csv list of images", suffixes=(".csv",))
FOLDER = FormatEntry(
    open=_open_folder, description="a folder of images", recognises=lambda folder: True
)
