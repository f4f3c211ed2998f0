"""What a scan tells of images that are readable and yet carry little: blank, or nearly black."""

from collections.abc import Sequence

import numpy as np

from cssl_jax.data.cleaning.scan import Index

# Brightest level, of 255, of 16-bit files whose values are taken for 14 bits or fewer.
NARROW = 64
SHOWN = 3


def blank(index: Index) -> np.ndarray:
    """int64 [k], numbers of the kept records whose pixels all have one value."""
    kept = index.kept
    return kept[index.levels[kept] == 1]


def narrow(index: Index) -> np.ndarray:
    """int64 [k], numbers of the kept 16-bit records, where none of them reaches ``NARROW``.

    Values of 10, 12 or 14 bits in 16-bit files end as 4 to 64 of 256 grey levels, near black.
    """
    sixteen = np.array([is_sixteen_bits(index.kind[i]) for i in index.kept], bool)
    found = index.kept[sixteen]
    return found if len(found) and index.high[found].max() < NARROW else found[:0]


def is_sixteen_bits(kind: str) -> bool:
    """Whether an image with this format and mode has more than 8 bits per channel."""
    return kind.rpartition(" ")[2].startswith("I")


def quality_notes(names: Sequence[str], index: Index) -> tuple[str, ...]:
    """Sentences on blank images and on 16-bit files of a narrow range.

    Args:
        names: Of the records.
        index: What the scan found.
    """
    notes = []
    if len(found := blank(index)):
        shown = ", ".join(names[i] for i in found[:SHOWN])
        shown += ", ..." if len(found) > SHOWN else ""
        notes.append(f"{len(found):,} of {len(index.kept):,} images are blank, one value: {shown}")
    if len(found := narrow(index)):
        high, levels = int(index.high[found].max()), int(index.levels[found].max())
        bits = next(bits for bits in (10, 12, 14) if high <= 2 ** (bits - 8))
        notes.append(
            f"{len(found):,} 16-bit images use the levels 0 to {high} of 255, at most {levels} of "
            f"them: their values have {bits} bits; multiply them by {2 ** (16 - bits)} before "
            "saving"
        )
    return tuple(notes)
