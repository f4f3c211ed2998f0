"""Builds from a config what a run needs: data, pipeline, method, optimizer, first state."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.experiment.example_sets import check_data, split_data
    from cssl_jax.experiment.experiment import Experiment
    from cssl_jax.experiment.input_profile import InputReport, bench_input

__all__ = [
    "Experiment",
    "InputReport",
    "bench_input",
    "check_data",
    "split_data",
]
__getattr__, __dir__ = public_names(__name__)
