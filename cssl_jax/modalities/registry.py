"""Modalities by name; a new one is a file in this package and a line here."""

from cssl_jax.modalities.base import Modality
from cssl_jax.registries import look_up

IMAGES, TEXTS = "image", "text"
MODALITIES: dict[str, str | Modality] = {
    "image": "cssl_jax.modalities.image:IMAGE",
    "series": "cssl_jax.modalities.series:SERIES",
    "audio": "cssl_jax.modalities.audio:AUDIO",
    "text": "cssl_jax.modalities.text:TEXT",
}


def modality_of_source(source: str) -> Modality:
    """The modality whose examples a text of ``data.source`` names; images, if no other has them.

    A table with a column of text holds texts, whatever its other columns.
    """
    for name in sorted(set(MODALITIES) - {IMAGES}, key=lambda name: (name != TEXTS, name)):
        if (entry := modality_entry(name)).holds(source):
            return entry
    return modality_entry(IMAGES)


def modality_entry(name: str) -> Modality:
    """Returns the record of a modality.

    Args:
        name: Key of ``MODALITIES``, or "file.py:NAME" of a ``Modality`` in a file.

    Raises:
        UserError: There is no such modality.

    Example:
        >>> modality_entry("series").noun
        'series'
    """
    return look_up("modality", name, MODALITIES, Modality)
