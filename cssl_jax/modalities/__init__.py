"""Modalities: what turns examples of one kind into views and into an encoder's input."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.data.cleaning.set_check import SetCheck
    from cssl_jax.modalities.audio_files import check_audio, split_audio
    from cssl_jax.modalities.base import Baseline, Modality
    from cssl_jax.modalities.image_files import DataCheck
    from cssl_jax.modalities.registry import modality_entry, modality_of_source
    from cssl_jax.modalities.series_files import check_series, split_series
    from cssl_jax.modalities.text_files import check_texts, split_texts

__all__ = [
    "Baseline",
    "DataCheck",
    "Modality",
    "SetCheck",
    "check_audio",
    "check_series",
    "check_texts",
    "modality_entry",
    "modality_of_source",
    "split_audio",
    "split_series",
    "split_texts",
]
__getattr__, __dir__ = public_names(__name__)
