"""What every collection of encoded pictures offers, wherever it is kept."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Records(Protocol):
    """Encoded pictures by number: a folder's files, a TFDS set, tar shards, parquet rows.

    Opening reads names only, never pixels: what is in the files is ``scan``'s to find out.

    Attributes:
        name: For messages and results.
        names: Of every record, unique and the same on every machine: a relative path with "/", or
            "shard:key". Their order is the records' and as stable as they are.
        stamps: Of every record; another string whenever its bytes may have changed (size and
            modification time of its file, and where in it the record lies).
        labels: int64 [size], -1 for none; or None where nothing is labelled.
        classes: Names of the labels, in the order of their numbers; empty without labels.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def names(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def stamps(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def labels(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102

    def read(self, index: int) -> bytes:
        """The encoded picture (JPEG, PNG, ...); called from many threads at once.

        Raises:
            OSError: It cannot be read.
        """
        ...
