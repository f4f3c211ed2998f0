"""Writes a run folder with the weights of a sentence-transformers folder."""

import pathlib
from typing import Any

import jax
import numpy as np
import optax

from cssl_jax.augment.text.policy import TextPolicy
from cssl_jax.config import (
    Config,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    TextData,
    TrainConfig,
)
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders, train_state
from cssl_jax.files import require_empty
from cssl_jax.interop.sentence_transformers import (
    WEIGHTS_FILE,
    SentenceTransformer,
    read_sentence_transformer,
)
from cssl_jax.interop.weight_files import file_sha256
from cssl_jax.methods.simcse import SimCSEConfig
from cssl_jax.modalities.text import TextSpec
from cssl_jax.models.registry import build_encoder, encoders_for
from cssl_jax.models.text.bert import Bert
from cssl_jax.runtime import spmd
from cssl_jax.train.imported_run import write_imported


def import_sentence_transformer(
    folder: str | pathlib.Path, workdir: str | pathlib.Path
) -> pathlib.Path:
    """Writes a run whose only checkpoint, of step 0, holds the encoder of a folder.

    The run is evaluated, embeds, and is the ``train.init`` of other runs, like one that was
    trained here. Its tokenizer is that of the folder.

    Args:
        folder: Folder of sentence-transformers with a BERT encoder and mean pooling.
        workdir: Folder of the run; it must not exist, or be empty.

    Returns:
        Absolute path of the run.

    Raises:
        UserError: The folder holds no such encoder, its size is not in the registry, or ``workdir``
            is not empty.
    """
    model = read_sentence_transformer(folder)
    run = pathlib.Path(workdir).expanduser().absolute()
    require_empty(run, "--workdir")
    config = _config(model)
    spec = TextSpec(
        kind="text", size=model.length, tokenizer=model.tokenizer, vocabulary=model.vocabulary
    )
    method = builders.make_method(config, spmd.make_mesh(jax.devices()[:1]))
    shapes = train_state.state_shapes(method, optax.identity(), spec)
    _check_shapes(shapes.params["encoder"], model.params)
    weights = {"params": {"encoder": model.params}, "model_state": {}}
    file = pathlib.Path(folder).expanduser().absolute() / WEIGHTS_FILE
    write_imported(run, config, spec, weights, {"file": str(file), "sha256": file_sha256(file)})
    return run


def _config(model: SentenceTransformer) -> Config:
    sizes = {name: getattr(model, name) for name in ("layers", "hidden", "heads", "inner")}
    for name in encoders_for("text"):
        encoder: Any = build_encoder(name)
        if isinstance(encoder, Bert) and sizes == {key: getattr(encoder, key) for key in sizes}:
            break
    else:
        listed = ", ".join(f"{name} {value}" for name, value in sizes.items())
        raise UserError(
            f"no encoder of text has {listed}; those of the registry are "
            f"{', '.join(encoders_for('text'))}"
        )
    return Config(
        data=TextData(length=model.length, vocabulary=model.vocabulary),
        augment=TextPolicy(),
        model=ModelConfig(encoder=name),
        method=SimCSEConfig(head="none"),
        optimizer=OptimizerConfig(name="adamw", learning_rate=3e-5, scaling="none"),
        train=TrainConfig(batch_size=64, epochs=10),
        evaluate=EvaluateConfig(batch_size=64),
    )


def _check_shapes(expected: Any, found: Any) -> None:
    """Raises UserError for a parameter that is missing, unknown or of another shape."""
    shapes = [
        {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}
        for leaves in (
            jax.tree_util.tree_leaves_with_path(expected),
            jax.tree_util.tree_leaves_with_path(found),
        )
    ]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        wanted, given = (shape.get(name) for shape in shapes)
        if wanted != given:
            raise UserError(f"parameter {name} has shape {given}; the encoder's is {wanted}")
