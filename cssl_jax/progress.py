"""Progress bars on standard error, suitable for terminals and log files."""

import sys
from typing import Any

from tqdm import tqdm


def bar(**options: Any) -> tqdm:
    """A tqdm progress bar that updates every 0.2 s on a terminal and every 15 s in a log file.

    Args:
        **options: Arguments of ``tqdm.tqdm``.
    """
    terminal = sys.stderr.isatty()
    return tqdm(file=sys.stderr, mininterval=0.2 if terminal else 15.0, **options)
