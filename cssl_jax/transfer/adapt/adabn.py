"""A run of its own for a classifier whose BatchNorm statistics were re-estimated (AdaBN)."""

import pathlib

import jax.numpy as jnp

from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.data.sources.base import Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate.evaluator import variables_hash
from cssl_jax.evaluate.features import Model
from cssl_jax.evaluate.load import Encoder, load_encoder
from cssl_jax.evaluate.norm_statistics import reestimate
from cssl_jax.files import write_text
from cssl_jax.methods.classifier import Classifier
from cssl_jax.recipes import to_json
from cssl_jax.runtime import multihost, spmd
from cssl_jax.step.state import TrainState
from cssl_jax.train.run_dir import has_checkpoint

_ORIGIN = "norm_statistics"  # in a checkpoint's meta: of which classifier, and of which images


def reestimated_run(encoder: Encoder, source: Source, run: pathlib.Path) -> Model:
    """``reestimate`` of a run's classifier, kept as the last checkpoint of a run of its own.

    Args:
        encoder: Of the classifier's run.
        source: Images; their labels are not looked at.
        run: Folder to write to; one that holds the checkpoint already is read.

    Raises:
        UserError: The folder holds the statistics of other images, or of another classifier.
    """
    origin = {
        "run": str(encoder.run),
        "step": encoder.step,
        "encoder_hash": variables_hash(encoder.model),
        "images": source.fingerprint(),
    }
    if multihost.broadcast_from_primary(lambda: has_checkpoint(run)):
        kept = load_encoder(run)
        if not kept.meta[_ORIGIN].items() <= origin.items():
            raise UserError(
                f"{run} was made of {kept.meta[_ORIGIN]}, which is now {origin}; delete it, or use "
                "another --workdir"
            )
        return kept.model
    assert isinstance(encoder.method, Classifier)
    method = encoder.method
    modules = {"encoder": method.encoder}
    if method.head is not None:
        modules["head"] = method.head
    model = reestimate(
        modules,
        encoder.model,
        source,
        encoder.spec,
        encoder.mesh,
        batch_size=encoder.config.train.batch_size,
        seed=encoder.config.train.seed,
    )

    def begin() -> None:
        run.mkdir(parents=True, exist_ok=True)
        write_text(run / "config.json", to_json(encoder.config))

    multihost.run_on_primary(begin)
    state = TrainState(jnp.int32(encoder.step), **model, method_state={}, opt_state={})
    with Checkpoints(run) as checkpoints:
        meta = {**encoder.meta, _ORIGIN: origin}
        checkpoints.save(spmd.replicate(state, encoder.mesh), meta, {})
    return model
