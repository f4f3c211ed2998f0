"""Chooses the image and label fields of a record, and numbers the labels."""

import re
from collections.abc import Sequence

import numpy as np

from cssl_jax.errors import UserError, short

MAX_CLASSES = 1_000_000
# If the largest label is IDENTIFIERS_FROM or more and less than the fraction OCCURRING of the
# numbers up to it occurs, the labels are identifiers and not class numbers.
IDENTIFIERS_FROM, OCCURRING = 10_000, 0.1
# Words in the names of files that belong to a split.
PART_NAMES = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
)


def choose_field(
    kind: str, key: str, candidates: Sequence[str], names: Sequence[str], where: str
) -> str | None:
    """Chooses the field that the user names, else the only candidate, else the one named ``kind``.

    Args:
        kind: "image" or "label".
        key: Name that the user gives; "" to choose automatically.
        candidates: Names of the fields that have the right type.
        names: Names of all fields.
        where: Name of the data set, for messages.

    Returns:
        Name of the field; None if there is no candidate.

    Raises:
        UserError: The named field does not exist, or there are several candidates.
    """
    option = f"--data.{kind}-key"
    if key and key not in names:
        raise UserError(f"{where} has no {key!r}; choose {option} from {', '.join(names)}")
    if key or not candidates:
        return key or None
    if len(set(candidates)) > 1 and kind not in candidates:
        raise UserError(f"{where} has the {kind}s {', '.join(candidates)}; choose one by {option}")
    return kind if kind in candidates else candidates[0]


def note_on_no_label(kind: str, others: Sequence[str], way_out: str) -> tuple[str, ...]:
    """Writes the note on a set whose fields include no label.

    Args:
        kind: Noun for the fields: "columns", "features" or "extensions".
        others: Names of all fields except the image.
        way_out: Instruction for the case that one of the fields is the label.

    Returns:
        One sentence; () if there are no other fields.
    """
    if not others:
        return ()
    more = f" and {len(others) - 8} more" if len(others) > 8 else ""
    listing = ", ".join(short(name)[1:-1] for name in others[:8]) + more
    return (
        f"no labels: the {kind} {listing} are not read; if one of them is the label, {way_out}",
    )


def is_whole_number(text: str) -> bool:
    """True if a text is a whole number in ASCII digits, such as "7" or "-1"."""
    return re.fullmatch(r"-?\d+", text, re.ASCII) is not None


def number_labels(
    values: Sequence[object], where: str, names: Sequence[str] | None = None
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Turns labels into class numbers. Names are numbered in alphabetical order.

    Whole numbers are kept, except identifiers; see ``dense_numbers``.

    Args:
        values: Label of every record: a whole number, a name, or None, -1 or "" for no label.
        where: Name of the data set, for messages.
        names: Class names in the order of the class numbers; None if they are unknown.

    Returns:
        (labels, classes): int64 [n], -1 for no label, and the class names in the order of the class
        numbers; (None, ()) if no record has a label.

    Raises:
        UserError: The labels mix numbers and names, have another type, or do not fit ``names``.
    """
    given = {value for value in values if _is_given(value, where)}
    if not given:
        return None, ()
    text_labels = {value for value in given if isinstance(value, str)}
    if text_labels and len(text_labels) < len(given):
        number = next(value for value in given if value not in text_labels)
        raise UserError(
            f"{where}: some labels are names ({short(min(text_labels))}) and some are numbers "
            f"({short(number)}); write all of them as names or all as numbers"
        )
    if text_labels:
        classes = tuple(names or sorted(text_labels))
        numbers = {name: number for number, name in enumerate(classes)}
        if not text_labels <= numbers.keys():
            raise UserError(
                f"{where}: label {short(min(text_labels - numbers.keys()))} is not one of its "
                "classes; correct the label or the class names"
            )
        labels = [numbers.get(value, -1) if isinstance(value, str) else -1 for value in values]
        return np.array(labels, np.int64), classes
    labels = [-1 if value in (None, "") else int(value) for value in values]  # type: ignore
    low, high = min(labels), max(labels)
    limit = len(names) if names else MAX_CLASSES
    if low < -1 or high >= limit:
        invalid = short(low if low < -1 else high)
        raise UserError(
            f"{where}: label {invalid} is not a class number; labels must be whole numbers from 0 "
            f"to {limit - 1}, -1 for no label, or names"
        )
    dense, identifiers = dense_numbers(np.array(labels, np.int64), where, named=bool(names))
    return dense, tuple(names or identifiers or map(str, range(high + 1)))


def dense_numbers(
    labels: np.ndarray, where: str, *, named: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Keeps class numbers, and renumbers identifiers from 0 in ascending order.

    Every class takes a row in the weights of the probes and a column in the k-NN votes, even if no
    image has it. Without renumbering, 3 identifiers near 900,000 would be 900,000 classes.

    Args:
        labels: Integers [n], -1 or larger, -1 for no label.
        where: Name of the data set, for messages.
        named: True if the classes have names, so that their numbers must stay.

    Returns:
        (labels, names): int64 [n], -1 for no label, and the identifiers as text in ascending order;
        the names are () if the labels are kept.

    Raises:
        UserError: A label is ``MAX_CLASSES`` or larger.
    """
    high = int(labels.max()) if labels.size else -1
    if high >= MAX_CLASSES:
        raise UserError(
            f"{where}: label {high} is not a class number; labels must be whole numbers from 0 to "
            f"{MAX_CLASSES - 1}, -1 for no label; renumber identifiers from 0: "
            "labels = numpy.unique(labels, return_inverse=True)[1]"
        )
    values = np.unique(labels[labels >= 0])
    if named or high < IDENTIFIERS_FROM or len(values) >= OCCURRING * (high + 1):
        return labels.astype(np.int64), ()
    dense = np.where(labels < 0, -1, np.searchsorted(values, labels)).astype(np.int64)
    return dense, tuple(map(str, values.tolist()))


def _is_given(value: object, where: str) -> bool:
    if value is None:
        return False
    if isinstance(value, (str, int, np.integer)):
        return value not in ("", -1)
    raise UserError(
        f"{where}: label {short(value)} is neither a whole number nor a name; choose another label "
        "by --data.label-key"
    )
