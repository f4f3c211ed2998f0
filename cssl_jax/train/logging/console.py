"""Lines of text on standard error, above a progress bar if there is one."""

import sys

from tqdm import tqdm

from cssl_jax.runtime import multihost


def say(text: str) -> None:
    """Prints a line on standard error; on the primary process only."""
    if multihost.is_primary():
        tqdm.write(text, file=sys.stderr)
