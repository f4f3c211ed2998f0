"""Gives the classes the same numbers in all sources of a run, by their names."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cssl_jax.data.formats.schema import is_whole_number
from cssl_jax.data.sources.base import Source
from cssl_jax.errors import UserError, short

Unknown = Literal["refuse", "exclude"]
SHOWN = 8  # maximum number of class names in a message


def align_class_numbers(
    source: Source,
    names: Sequence[str],
    *,
    option: str,
    reference: str,
    unknown: Unknown = "refuse",
    remedy: str = "",
) -> Source:
    """Renumbers the labels of a source, so that its classes have the numbers of ``names``.

    A source numbers only the classes that it contains, so that one missing class shifts all later
    numbers. Classes are therefore matched by name. Labels that are numbers without names are kept.
    If the names of the other source are numbers ("00", "01", ...), such labels are matched by
    value.

    Args:
        source: Source to renumber; returned unchanged if no example has a label.
        names: Class names in the order of the class numbers; the names "0", "1", ... stand for
            labels without names.
        option: Option that gives the source, for messages.
        reference: Option that gives the names, for messages.
        unknown: Treatment of classes that ``names`` lacks. "refuse" raises an error. "exclude"
            removes their labels (-1), so that labelled evaluations skip them.
        remedy: Further instruction for the user, at the end of the message about such classes.

    Raises:
        UserError: The source has unknown classes, or names and numbers cannot be matched.
    """
    used = np.empty(0, int) if source.labels is None else np.unique(source.labels)
    used = used[used >= 0]
    if not len(used):
        return source
    target, own = _distinct(tuple(names)), names_of(source)
    if target == own or (is_numbered(target) and is_numbered(own)):
        return source
    by_name = _by_name(target, own)
    candidates = [] if by_name is None or (by_name[used] < 0).any() else [by_name]
    if _fits_by_position(target, own, used):
        candidates.append(np.arange(len(own)))
    # Matching by name and by position may both be possible. A choice would be a guess where they
    # differ.
    if len(candidates) > 1 and (differing := used[candidates[0][used] != candidates[1][used]]).size:
        label = differing[0]
        raise UserError(
            f"{option} has labels without names, but the class names of {reference} are numbers in "
            f"another order: label {label} may be the class {own[label]!r} or class number "
            f"{label}, {target[label]!r}; give the labels of both as numbers or both as names"
        )
    if candidates:
        return source.renumber_classes(candidates[0], target)
    if by_name is None:
        raise UserError(_mismatch_message(source, target, own, used, option, reference))
    unknown_names = [own[label] for label in used if by_name[label] < 0]
    common = len(used) - len(unknown_names)
    if unknown == "refuse" or not common:
        exclusion = ", or evaluate on the common ones by --data.unknown-classes exclude"
        raise UserError(
            f"{option} has {'classes' if common else 'only classes'} that {reference} lacks: "
            f"{listed(unknown_names)} ({reference} has {listed(target)}); give both the same "
            f"classes{exclusion if common else ''}{remedy}"
        )
    assert source.labels is not None
    count = int(np.isin(source.labels, [own.index(name) for name in unknown_names]).sum())
    note = (
        f"{option}: {count:,} examples of classes that {reference} lacks ({listed(unknown_names)}) "
        "are excluded from evaluations with labels"
    )
    return source.renumber_classes(by_name, target, note)


def names_of(source: Source) -> tuple[str, ...]:
    """Class names of a source in the order of the class numbers.

    The names are "0", "1", ... if the source has no names, or if two classes share a name.
    """
    return _distinct(source.classes or tuple(map(str, range(source.num_classes))))


def is_numbered(names: Sequence[str]) -> bool:
    """True if every name is its class number: "0", "1", "2", ..."""
    return all(name == str(number) for number, name in enumerate(names))


def listed(names: Sequence[str]) -> str:
    """Joins up to ``SHOWN`` names for a message, and adds the number of the others."""
    shown = ", ".join(short(name)[1:-1] for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, or "0", "1", ... if two classes share a name, which then identifies neither."""
    return names if len(set(names)) == len(names) else tuple(map(str, range(len(names))))


def _by_name(target: tuple[str, ...], own: tuple[str, ...]) -> np.ndarray | None:
    """Matches classes by name, or by value if all names are whole numbers ("01" matches "1").

    Returns:
        int [len(own)], number in ``target`` of every class in ``own``, -1 for none; None if only
        one of the two has names.
    """
    without_names = [names for names in (target, own) if is_numbered(names)]
    if not all(is_whole_number(name) for name in (*target, *own)):
        if without_names:
            return None
        numbers = {name: number for number, name in enumerate(target)}
        return np.array([numbers.get(name, -1) for name in own])
    values = {int(name): number for number, name in enumerate(target)}
    return np.array([values.get(int(name), -1) for name in own])


def _fits_by_position(target: tuple[str, ...], own: tuple[str, ...], used: np.ndarray) -> bool:
    """True if numbers in ``own`` can be numbers in ``target``, because one has no names."""
    if is_numbered(own):
        return bool(used.max() < len(target))
    # ``own`` has names and ``target`` only numbers. The numbers of a subset of the names would be
    # shifted, so that only the full set of classes fits.
    return is_numbered(target) and len(target) == len(own)


def _mismatch_message(
    source: Source,
    target: tuple[str, ...],
    own: tuple[str, ...],
    used: np.ndarray,
    option: str,
    reference: str,
) -> str:
    if is_numbered(own):
        return (
            f"{option} has labels up to {used.max()}, but {reference} has the {len(target):,} "
            f"classes {listed(target)}; number the labels of {source.name} from 0 to "
            f"{len(target) - 1} in this order, or give their names"
        )
    return (
        f"{option} has the {len(own):,} classes {listed(own)}, but {reference} has the numbers 0 "
        f"to {len(target) - 1} without names, so that the two cannot be matched; give the class "
        f"names of {reference} in the order of their numbers by --data.classes {own[0]} ..."
    )
