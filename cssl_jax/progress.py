"""Progress bars on standard error, which a terminal and a log file can both bear."""

import sys
from typing import Any

from tqdm import tqdm


def bar(**options: Any) -> tqdm:
    """Tqdm's bar: a terminal sees it move, a log file gets a line every 15 s."""
    terminal = sys.stderr.isatty()
    return tqdm(file=sys.stderr, mininterval=0.2 if terminal else 15.0, **options)
