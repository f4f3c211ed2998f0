"""Which fields of a record are its picture and label, and numbers for the labels."""

import re
from collections.abc import Sequence

import numpy as np

from cssl_jax.errors import UserError

MAX_CLASSES = 1_000_000
# From this number of classes on, labels of which fewer than a tenth occur are taken as identifiers.
IDENTIFIERS_FROM, OCCURRING = 10_000, 0.1
# Of files and folders that are parts of a set, not classes of it.
PART_NAMES = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
)


def choose_field(
    kind: str, key: str, candidates: Sequence[str], names: Sequence[str], where: str
) -> str | None:
    """The field that a user names, else the only candidate, else that which is named as its kind.

    Args:
        kind: "image" or "label".
        key: What the user names, or "".
        candidates: Fields that may be meant.
        names: All fields.
        where: For messages.

    Returns:
        None where there is no candidate.

    Raises:
        UserError: The field is not there, or several may be meant.
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
    """The sentence on fields of which none was taken as the label; () where there is none.

    Args:
        kind: What the fields are: "columns", "features", "extensions".
        others: Names of the fields beside the image.
        way_out: What to do where one of them is the label.
    """
    if not others:
        return ()
    more = f" and {len(others) - 8} more" if len(others) > 8 else ""
    named = ", ".join(short(name)[1:-1] for name in others[:8]) + more
    return (f"no labels: the {kind} {named} are not read; if one of them is the label, {way_out}",)


def short(value: object) -> str:
    """A value as code has it, cut where it is long: for messages, which may quote any file."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def is_whole_number(text: str) -> bool:
    """Whether a label that is written as text is a number."""
    return re.fullmatch(r"-?\d+", text, re.ASCII) is not None


def number_labels(
    values: Sequence[object], where: str, names: Sequence[str] | None = None
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Numbers labels: whole numbers stay what they are, names go by the alphabet.

    Args:
        values: One a record: a whole number, a name, or None, -1 or "" for none.
        where: For messages.
        names: Of the classes, by number, where they are known.

    Returns:
        (int64 [n] with -1 for none, names of the classes); (None, ()) where all have none.

    Raises:
        UserError: The labels are something else, or do not fit the names.
    """
    given = {value for value in values if _is_given(value, where)}
    if not given:
        return None, ()
    words = {value for value in given if isinstance(value, str)}
    if words and len(words) < len(given):
        number = next(value for value in given if value not in words)
        raise UserError(
            f"{where}: some labels are names ({short(min(words))}) and some are numbers "
            f"({short(number)}); "
            "make them all of one kind"
        )
    if words:
        classes = tuple(names or sorted(words))
        numbers = {name: number for number, name in enumerate(classes)}
        if not words <= numbers.keys():
            raise UserError(
                f"{where}: label {short(min(words - numbers.keys()))} is none of its classes"
            )
        labels = [numbers.get(value, -1) if isinstance(value, str) else -1 for value in values]
        return np.array(labels, np.int64), classes
    labels = [-1 if value in (None, "") else int(value) for value in values]  # type: ignore
    low, high = min(labels), max(labels)
    limit = len(names) if names else MAX_CLASSES
    if low < -1 or high >= limit:
        wrong = short(low if low < -1 else high)
        raise UserError(
            f"{where}: label {wrong} is no class number; labels are whole numbers from 0 to "
            f"{limit - 1}, -1 for none, or names"
        )
    dense, identifiers = dense_numbers(np.array(labels, np.int64), where, named=bool(names))
    return dense, tuple(names or identifiers or map(str, range(high + 1)))


def dense_numbers(
    labels: np.ndarray, where: str, *, named: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels that are class numbers as they are, and identifiers numbered by their values.

    Every class has a row in the probes' weights and a column in the votes, whether or not an image
    is of it: 3 identifiers around 900,000 would be 900,000 classes.

    Args:
        labels: Integers [n] from -1 on, -1 for none.
        where: For messages.
        named: Whether the classes have names, and their numbers are to stay.

    Returns:
        (int64 [n], names of the classes); the names are the values of identifiers, in ascending
        order, and () where the labels stay what they are.

    Raises:
        UserError: A label is beyond ``MAX_CLASSES``.
    """
    high = int(labels.max()) if labels.size else -1
    if high >= MAX_CLASSES:
        raise UserError(
            f"{where}: label {high} is no class number; labels are whole numbers from 0 to "
            f"{MAX_CLASSES - 1}, -1 for none; number identifiers by the values that occur: "
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
        f"{where}: label {short(value)} is neither a whole number nor a name; choose another by "
        "--data.label-key"
    )
