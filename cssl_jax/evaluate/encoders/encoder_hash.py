"""Digest of an encoder's variables, which shows that an evaluation leaves them unchanged."""

import hashlib

import jax
import numpy as np

from cssl_jax.errors import RunError
from cssl_jax.evaluate.encoders.features import Model, encoder_variables


def variables_hash(model: Model) -> str:
    """SHA-256, in hex, of the names, dtypes, shapes and bytes of an encoder's variables."""
    digest = hashlib.sha256()
    leaves, _ = jax.tree_util.tree_flatten_with_path(encoder_variables(model))
    for path, leaf in leaves:
        values = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def require_unchanged(model: Model, before: str, subject: str) -> None:
    """Checks that an evaluation left an encoder as it was.

    Args:
        model: Variables of the model.
        before: ``variables_hash`` of the model before the evaluation.
        subject: Description of the encoder for the message.

    Raises:
        RunError: The variables have changed.
    """
    if variables_hash(model) != before:
        raise RunError(
            f"a protocol changed {subject}: its SHA-256 was {before[:12]} before the evaluation; "
            "the metrics are not those of a frozen encoder"
        )
