"""What a run has recorded beside its newest checkpoint."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.files import existing_run


def run_meta(run: str | pathlib.Path) -> dict[str, Any]:
    """The metadata of a run's newest checkpoint, such as its config and the form of its input.

    Raises:
        UserError: The folder is no run, or has no checkpoint.
    """
    with quiet(), Checkpoints(existing_run(run), read_only=True) as checkpoints:
        return checkpoints.read_meta()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses Orbax's warnings about the reading of a checkpoint, which users cannot act on."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
