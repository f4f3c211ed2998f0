"""Lists what became of the arrays of a file of weights."""

import collections
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from cssl_jax.interop.branches import Branch, StateDict

COUNTER = ".num_batches_tracked"  # of torch's BatchNorm; no weight


@dataclasses.dataclass(frozen=True)
class Use:
    """One line on what became of arrays of a file.

    Attributes:
        status: "taken", "left" or "missing".
        count: Number of arrays.
        what: Names of the arrays, and the reason.
    """

    status: str
    count: int
    what: str


def uses_of(
    dicts: Mapping[str, StateDict],
    branch: Branch,
    others: list[Branch],
    taken: int,
    is_own: Callable[[str, np.ndarray, str], bool],
) -> tuple[Use, ...]:
    """Lines on the arrays that were taken, then on all others, grouped by the start of the key.

    Args:
        dicts: State dicts of the file by their path.
        branch: Place of the encoder that is taken.
        others: Places of all other encoders.
        taken: Number of arrays that are taken.
        is_own: (key, array, prefix) -> True if an array in the branch's state dict and below its
            prefix belongs to the encoder.
    """
    groups: collections.Counter[str] = collections.Counter()
    counters = 0
    for nest, content in dicts.items():
        for key, array in content.items():
            below = nest == branch.nest and key.startswith(branch.prefix)
            if below and key.endswith(COUNTER):
                counters += 1
            elif not (below and is_own(key, array, branch.prefix)):
                groups[_group(nest, key, others, branch)] += 1
    lines = [Use("taken", taken, f"encoder, from {branch}")]
    lines += [Use("left", count, group) for group, count in sorted(groups.items())]
    if counters:
        lines.append(Use("left", counters, "num_batches_tracked: counters, no weights"))
    return (*lines, Use("missing", 0, "nothing: every array of the encoder is there"))


def _group(nest: str, key: str, others: list[Branch], branch: Branch) -> str:
    """Name of a group of arrays that are left in the file, and why."""
    for other in others:
        if nest == other.nest and key.startswith(other.prefix) and other.prefix != branch.prefix:
            return f"{other}: another encoder; choose it by its prefix {other.prefix!r}"
        if nest == other.nest != branch.nest:
            return f"{nest}: another state dict; choose it as {str(other)!r}"
    own = key.startswith(branch.prefix)
    start = branch.prefix if own else ""
    return f"{start}{key[len(start) :].partition('.')[0]}: no part of the encoder"
