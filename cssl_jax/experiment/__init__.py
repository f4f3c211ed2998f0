"""Builds from a config what a run needs: data, pipeline, method, optimizer, first state."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.data.cleaning.set_check import SetCheck
    from cssl_jax.experiment.example_sets import check_data, split_data
    from cssl_jax.experiment.experiment import Experiment
    from cssl_jax.experiment.input_profile import InputReport, bench_input
    from cssl_jax.modalities.audio_files import check_audio, split_audio
    from cssl_jax.modalities.image_files import DataCheck
    from cssl_jax.modalities.series_files import check_series, split_series
    from cssl_jax.modalities.text_files import check_texts, split_texts

__all__ = [
    "DataCheck",
    "Experiment",
    "InputReport",
    "SetCheck",
    "bench_input",
    "check_audio",
    "check_data",
    "check_series",
    "check_texts",
    "split_audio",
    "split_data",
    "split_series",
    "split_texts",
]
__getattr__, __dir__ = public_names(__name__)
