"""Interface that every reader of encoded images implements."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Records(Protocol):
    """Encoded images by index: the files of a folder, a TFDS split, tar shards, parquet rows.

    Opening reads names and labels only, never pixels. ``scan`` reads and checks the files.

    Attributes:
        name: Name of the data set in messages and results.
        names: Name of every record, unique and identical on every machine: a relative path with
            "/", or "shard:key". The names are in the order of the records and stay the same as long
            as the records do.
        stamps: Version string of every record. It changes whenever the bytes of the record may have
            changed: it holds the size and modification time of the file and the position of the
            record in it.
        labels: int64 [size], class number of every record, -1 for no label; None if no record has a
            label.
        classes: Class names in the order of the class numbers; () without labels.
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
        """Reads one encoded image (JPEG, PNG, ...). Several threads may call this at once.

        Raises:
            OSError: The record cannot be read.
        """
        ...
