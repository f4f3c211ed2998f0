"""Writes a run folder around weights of another library, so that every command takes them."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import optax

from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.features import Model
from cssl_jax.evaluate.encoders.foreign import ForeignWeights, open_weights
from cssl_jax.evaluate.results import Results
from cssl_jax.experiment import builders, train_state
from cssl_jax.files import require_empty, write_json, write_text
from cssl_jax.interop.file_uses import Use
from cssl_jax.interop.preprocessing import Preprocessing
from cssl_jax.recipes.paths import with_absolute_paths
from cssl_jax.runtime import process, spmd
from cssl_jax.train import run_dir


def import_weights(
    place: str | os.PathLike[str],
    workdir: str | os.PathLike[str],
    *,
    encoder: str = "",
    prefix: str = "",
    prepared: Preprocessing | None = None,
    source: str = "",
    heads: int = 0,
) -> ForeignWeights:
    """Writes a run folder whose checkpoint of step 0 has the encoder of a file of weights.

    The projection head is that of the seed: it has never been trained. The folder has config.json,
    import.json (file, SHA-256, branch, preprocessing) and the checkpoint.

    Args:
        place: File (safetensors, PyTorch, .npz), or a timm or Hugging Face folder.
        workdir: Folder to write; it must be empty or missing.
        encoder: Name of the encoder that the weights must be of; "" accepts any.
        prefix: Beginning of the encoder's keys; "" chooses, see ``open_weights``.
        prepared: Preparation of the images; None: that which the file states, or the usual one.
        source: Value of ``data.source`` in the run's config, for later commands; "" names none.
        heads: Number of attention heads of a Vision Transformer; 0: that which the file states.

    Returns:
        What was found in the file.

    Raises:
        UserError: The file cannot be read, holds no encoder of this package or another one than
            ``encoder``, or the folder is not empty.
    """
    run = pathlib.Path(workdir).expanduser().absolute()
    require_empty(run, "--workdir")
    found = open_weights(place, prefix=prefix, prepared=prepared, heads=heads)
    name = found.config.model.encoder
    if encoder not in ("", name):
        raise UserError(
            f"{place} has the weights of a {name}, not of a {encoder}; give --encoder {name}, or "
            "omit it"
        )
    config = with_absolute_paths(found.config.replace({"data.source": source}))
    found = dataclasses.replace(found, config=config)
    write_imported(run, config, found.spec, found.model, found.meta["imported"], found.uses)
    return found


def write_imported(
    run: pathlib.Path,
    config: Config,
    spec: InputSpec,
    model: Model,
    origin: dict[str, Any],
    arrays: Sequence[Use] = (),
) -> None:
    """Writes a run folder with weights that were not trained here, as a checkpoint of step 0.

    Args:
        run: Folder to write.
        config: Config of the run.
        spec: Input that the encoder takes.
        model: {"params", "model_state"} of the encoder alone.
        origin: "file" and "sha256" of the weights, and what else is known of them, as JSON.
        arrays: What became of the arrays of the file.
    """
    with run_dir.writable(run):
        run.mkdir(parents=True, exist_ok=True)
        mesh = spmd.make_mesh(jax.devices()[:1])
        method = builders.make_method(config, mesh)
        # Without an optimizer's state: the checkpoint is no state that a run could resume from.
        state = train_state.init_state(method, optax.identity(), spec, config.train.seed)
        state = train_state.with_model(method, state, method.adopt(state.model, model))
        with Checkpoints(run, evaluated=method.evaluated) as checkpoints:
            meta = _meta(config, spec, origin, mesh)
            checkpoints.save(spmd.replicate(state, mesh), meta, {})
        uses = [dataclasses.asdict(use) for use in arrays]
        write_json(run / run_dir.IMPORTED, {**origin, "arrays": uses})
        # The metrics of later evaluations are merged into this file.
        results = Results(
            step=0,
            seed=config.train.seed,
            epochs=0,
            source=config.data.source,
            notes=[f"weights imported from {origin['file']}, SHA-256 {origin['sha256']}"],
            versions=process.versions(),
        )
        write_json(run / "results.json", results.to_json())
        write_text(run / "config.json", recipes.to_json(config))


def _meta(
    config: Config, spec: InputSpec, origin: dict[str, Any], mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    return {
        "config": recipes.to_dict(config),
        "input": dataclasses.asdict(spec),
        "imported": origin,
        "data": dict.fromkeys(("train", "validation"), "unknown"),
        "code": {},
        "classes": [],
        "versions": process.versions(),
        "environment": process.environment(mesh),
    }
