"""One numbering of the classes for all sources of a run, by the names of the classes."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cssl_jax.data.formats.schema import is_whole_number, short
from cssl_jax.data.sources.base import Source
from cssl_jax.errors import UserError

Unknown = Literal["refuse", "exclude"]
SHOWN = 8  # class names in a message


def number_alike(
    source: Source,
    names: Sequence[str],
    *,
    option: str,
    reference: str,
    unknown: Unknown = "refuse",
    remedy: str = "",
) -> Source:
    """The source with its labels numbered as in ``names``.

    A source numbers the classes that it holds: where one class is missing, all later numbers
    differ. Class names are therefore matched by name. Labels that are numbers without names stay
    what they are; beside classes that are called by numbers ("00", "01", ...) they are matched by
    value.

    Args:
        source: Examples to number; returned unchanged where nothing is labelled.
        names: Class names in the order of their numbers; names "0", "1", ... are numbers.
        option: Option that named the source, for messages.
        reference: Option that the names come from, for messages.
        unknown: "refuse" raises on classes that ``names`` lacks, "exclude" takes their labels away
            (-1), so that labelled evaluations omit them.
        remedy: Another way out, for messages.

    Raises:
        UserError: The source has other classes, or names and numbers cannot be matched.
    """
    used = np.empty(0, int) if source.labels is None else np.unique(source.labels)
    used = used[used >= 0]
    if not len(used):
        return source
    wanted, own = _distinct(tuple(names)), names_of(source)
    if wanted == own or (is_numbered(wanted) and is_numbered(own)):
        return source
    by_name = _by_name(wanted, own)
    readings = [] if by_name is None or (by_name[used] < 0).any() else [by_name]
    if _fits_by_position(wanted, own, used):
        readings.append(np.arange(len(own)))
    if len(readings) > 1 and (differing := used[readings[0][used] != readings[1][used]]).size:
        label = differing[0]
        raise UserError(
            f"{option} numbers its classes and {reference} names them by numbers, in another "
            f"order: label {label} may be the class {own[label]!r} or class number {label}, "
            f"{wanted[label]!r}; give the labels of both as numbers or both as names"
        )
    if readings:
        return source.renumbered(readings[0], wanted)
    if by_name is None:
        raise UserError(_unmatched(source, wanted, own, used, option, reference))
    lacking = [own[label] for label in used if by_name[label] < 0]
    common = len(used) - len(lacking)
    if unknown == "refuse" or not common:
        way_out = ", or evaluate on the common ones by --data.unknown-classes exclude"
        raise UserError(
            f"{option} has {'classes' if common else 'only classes'} that {reference} lacks: "
            f"{listed(lacking)} ({reference} has {listed(wanted)}); give both the same classes"
            f"{way_out if common else ''}{remedy}"
        )
    assert source.labels is not None
    count = int(np.isin(source.labels, [own.index(name) for name in lacking]).sum())
    note = (
        f"{option}: {count:,} images of classes that {reference} lacks ({listed(lacking)}) are "
        "not evaluated by label"
    )
    return source.renumbered(by_name, wanted, note)


def names_of(source: Source) -> tuple[str, ...]:
    """Class names of a source by number; "0", "1", ... where it has none, or none of its own."""
    return _distinct(source.classes or tuple(map(str, range(source.num_classes))))


def is_numbered(names: Sequence[str]) -> bool:
    """True if the names say no more than the numbers: "0", "1", "2", ..."""
    return all(name == str(number) for number, name in enumerate(names))


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first ``SHOWN`` of many."""
    shown = ", ".join(short(name)[1:-1] for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, or numbers where two classes share a name, which then identifies neither."""
    return names if len(set(names)) == len(names) else tuple(map(str, range(len(names))))


def _by_name(wanted: tuple[str, ...], own: tuple[str, ...]) -> np.ndarray | None:
    """Number in ``wanted`` of every own class, -1 for none; None where only one side has names."""
    numbers = [names for names in (wanted, own) if is_numbered(names)]
    if not all(is_whole_number(name) for name in (*wanted, *own)):
        if numbers:
            return None
        known = {name: number for number, name in enumerate(wanted)}
        return np.array([known.get(name, -1) for name in own])
    values = {int(name): number for number, name in enumerate(wanted)}
    return np.array([values.get(int(name), -1) for name in own])


def _fits_by_position(wanted: tuple[str, ...], own: tuple[str, ...], used: np.ndarray) -> bool:
    """Whether own numbers can be taken as numbers in ``wanted``: one side has no names."""
    if is_numbered(own):
        return bool(used.max() < len(wanted))
    # Names in alphabetical order beside bare numbers: only the full set of classes fits.
    return is_numbered(wanted) and len(wanted) == len(own)


def _unmatched(
    source: Source,
    wanted: tuple[str, ...],
    own: tuple[str, ...],
    used: np.ndarray,
    option: str,
    reference: str,
) -> str:
    if is_numbered(own):
        return (
            f"{option} has labels up to {used.max()} and {reference} the {len(wanted):,} classes "
            f"{listed(wanted)}; number the labels of {source.name} from 0 to {len(wanted) - 1} in "
            "this order, or give their names"
        )
    return (
        f"{option} has the {len(own):,} classes {listed(own)} and {reference} the numbers 0 to "
        f"{len(wanted) - 1} without names, so that neither can be matched; name the classes of "
        f"{reference} in the order of their numbers by --data.classes {own[0]} ..."
    )
