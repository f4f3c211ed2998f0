"""The trained method that a method is trained with, from the folder of its run."""

import jax

from cssl_jax import recipes
from cssl_jax.checkpoint.run_meta import run_meta
from cssl_jax.config import Config
from cssl_jax.experiment import builders
from cssl_jax.methods.base import Method
from cssl_jax.methods.registry import method_entry
from cssl_jax.runtime import spmd


def teacher_of(config: Config) -> Method | None:
    """Builds the teacher of a config's method; None if the method has none.

    Raises:
        UserError: The folder contains no run or no checkpoint.
    """
    folder = method_entry(config.method.name).teacher(config)
    if not folder:
        return None
    theirs = recipes.from_dict(run_meta(folder)["config"])
    # BatchNorm groups matter to training only. One device divides every batch.
    return builders.make_method(theirs, spmd.make_mesh(jax.devices()[:1]))
