"""Classifier with re-estimated BatchNorm statistics (AdaBN), saved as a separate run."""

import pathlib

import jax.numpy as jnp

from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.data.sources.base import Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.encoder_hash import variables_hash
from cssl_jax.evaluate.encoders.features import Model
from cssl_jax.evaluate.encoders.load import Encoder, load_encoder
from cssl_jax.evaluate.encoders.norm_statistics import reestimate_norm_statistics
from cssl_jax.files import write_text
from cssl_jax.methods.supervised.classifier import Classifier
from cssl_jax.recipes import to_json
from cssl_jax.runtime import multihost, spmd
from cssl_jax.step.state import TrainState
from cssl_jax.train.run_dir import has_checkpoint

_ORIGIN = "norm_statistics"  # key in meta: the classifier and the images of the statistics


def reestimated_run(encoder: Encoder, source: Source, run: pathlib.Path) -> Model:
    """Re-estimates the BatchNorm statistics of a classifier and saves it as a separate run.

    Args:
        encoder: Encoder loaded from the run of the classifier.
        source: Images for the statistics; labels are ignored.
        run: Output folder. If it contains the checkpoint already, the checkpoint is loaded.

    Returns:
        Model {"params", "model_state"} with the new statistics.

    Raises:
        UserError: The folder contains statistics of other images or of another classifier.
    """
    origin = {
        "run": str(encoder.run),
        "step": encoder.step,
        "encoder_hash": variables_hash(encoder.model),
        "images": source.fingerprint(),
    }
    if multihost.broadcast_from_primary(lambda: has_checkpoint(run)):
        saved = load_encoder(run)
        if not saved.meta[_ORIGIN].items() <= origin.items():
            raise UserError(
                f"{run} was computed from {saved.meta[_ORIGIN]}, but the classifier and images are "
                f"now {origin}; delete the folder, or use another --workdir"
            )
        return saved.model
    assert isinstance(encoder.method, Classifier)
    method = encoder.method
    modules = {"encoder": method.encoder}
    if method.head is not None:
        modules["head"] = method.head
    model = reestimate_norm_statistics(
        modules,
        encoder.model,
        source,
        encoder.spec,
        encoder.mesh,
        batch_size=encoder.config.train.batch_size,
        seed=encoder.config.train.seed,
    )

    def create_run() -> None:
        run.mkdir(parents=True, exist_ok=True)
        write_text(run / "config.json", to_json(encoder.config))

    multihost.run_on_primary(create_run)
    state = TrainState(jnp.int32(encoder.step), **model, method_state={}, opt_state={})
    with Checkpoints(run) as checkpoints:
        meta = {**encoder.meta, _ORIGIN: origin}
        checkpoints.save(spmd.replicate(state, encoder.mesh), meta, {})
    return model
