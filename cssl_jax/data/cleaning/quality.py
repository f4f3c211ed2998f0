"""Notes on readable images that carry little information: blank or nearly black ones."""

from collections.abc import Sequence

import numpy as np

from cssl_jax.data.cleaning.scan import ScanIndex

# 16-bit files whose brightest level stays below this (of 255) are assumed to hold values of at most
# 14 bits.
NARROW = 64
SHOWN = 3  # maximum number of names in a note


def blank(index: ScanIndex) -> np.ndarray:
    """Record numbers of the kept images whose pixels all have one value, int64 [k]."""
    kept = index.kept
    numbers: np.ndarray = kept[index.levels[kept] == 1]
    return numbers


def narrow(index: ScanIndex) -> np.ndarray:
    """Record numbers of the kept 16-bit images if none of them reaches ``NARROW``, int64 [k].

    Values of 10, 12 or 14 bits in 16-bit files become 4 to 64 of 256 grey levels, nearly black.
    The result is empty if any 16-bit image reaches ``NARROW``.
    """
    is_sixteen = np.array([is_sixteen_bits(index.kind[i]) for i in index.kept], bool)
    numbers: np.ndarray = index.kept[is_sixteen]
    return numbers if len(numbers) and index.high[numbers].max() < NARROW else numbers[:0]


def is_sixteen_bits(kind: str) -> bool:
    """True if a format and mode such as "TIFF I;16" has more than 8 bits per channel."""
    return kind.rpartition(" ")[2].startswith("I")


def quality_notes(names: Sequence[str], index: ScanIndex) -> tuple[str, ...]:
    """Messages on blank images and on 16-bit images with a narrow range of values.

    Args:
        names: Names of all records.
        index: Result of the scan.

    Returns:
        At most two sentences; empty if nothing is unusual.
    """
    notes = []
    if len(numbers := blank(index)):
        shown = ", ".join(names[i] for i in numbers[:SHOWN])
        shown += ", ..." if len(numbers) > SHOWN else ""
        count = len(numbers)
        notes.append(f"{count:,} of {len(index.kept):,} images are blank, one value: {shown}")
    if len(numbers := narrow(index)):
        high, levels = int(index.high[numbers].max()), int(index.levels[numbers].max())
        bits = next(bits for bits in (10, 12, 14) if high <= 2 ** (bits - 8))
        notes.append(
            f"{len(numbers):,} 16-bit images use the levels 0 to {high} of 255, at most {levels} "
            f"of them: their values have {bits} bits; multiply them by {2 ** (16 - bits)} before "
            "saving"
        )
    return tuple(notes)
