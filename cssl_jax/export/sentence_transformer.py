"""Writer of a folder that sentence-transformers opens."""

import copy
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.load import Encoder
from cssl_jax.interop import sentence_transformers
from cssl_jax.modalities.text import TextSpec
from cssl_jax.models.text.bert import Bert
from cssl_jax.runtime import spmd


def content_of(encoder: Encoder) -> sentence_transformers.SentenceTransformer:
    """What the folder of an encoder of text holds.

    Raises:
        UserError: The encoder is not a BERT encoder of text.
    """
    bert, spec = encoder.method.encoder, encoder.spec
    if not (isinstance(bert, Bert) and isinstance(spec, TextSpec)):
        raise UserError(
            "sentence-transformers opens BERT encoders of text; this is "
            f"{encoder.config.model.encoder} of {encoder.modality.noun}"
        )
    params = jax.device_get(encoder.model["params"]["encoder"])
    return sentence_transformers.SentenceTransformer(
        params=params,
        tokenizer=spec.tokenizer,
        length=spec.size,
        vocabulary=spec.vocabulary,
        layers=bert.layers,
        hidden=params["word"]["embedding"].shape[1],
        heads=bert.heads,
        inner=params["block1"]["mlp1"]["kernel"].shape[1],
    )


def writer(
    encoder: Encoder, examples: Callable[[Encoder], object]
) -> Callable[[pathlib.Path], tuple[np.ndarray, str, tuple[str, ...]]]:
    """Function that writes the folder and computes the features of what was written.

    Args:
        encoder: Encoder of the run.
        examples: Function that gives the texts of the check.

    Raises:
        UserError: The encoder is not a BERT encoder of text.
    """
    content = content_of(encoder)

    def write(folder: pathlib.Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
        sentence_transformers.write_sentence_transformer(folder, content)
        found = sentence_transformers.read_sentence_transformer(folder)
        again = copy.copy(encoder)
        params = {**encoder.model["params"], "encoder": spmd.replicate(found.params, encoder.mesh)}
        again.model = {**encoder.model, "params": params}
        usage = (
            "from sentence_transformers import SentenceTransformer\n\n"
            f'features = SentenceTransformer("{folder.name}").encode(["a sentence"])'
        )
        return again(examples(encoder)), usage, ()

    return write
