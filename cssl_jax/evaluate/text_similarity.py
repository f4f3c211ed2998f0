"""Protocol "sts" on a run's encoder, the untrained one and TF-IDF."""

from collections.abc import Callable, Sequence
from typing import Any

from cssl_jax.config import Config
from cssl_jax.data.sources.base import ArraySource, Source
from cssl_jax.data.sources.text import all_texts, text_examples
from cssl_jax.data.sources.text_pairs import Pairs
from cssl_jax.data.text.tfidf import KINDS
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.encoder_hash import variables_hash
from cssl_jax.evaluate.encoders.features import encoder_variables, make_embed
from cssl_jax.evaluate.encoders.load import Encoder
from cssl_jax.evaluate.protocols.sts import cosines, sts
from cssl_jax.evaluate.results import BASELINES, UNTRAINED


def sentences_of(pairs: Pairs) -> ArraySource:
    """Source of the different sentences of pairs, in the order of their first occurrence."""
    unique = list(dict.fromkeys([*pairs.first, *pairs.second]))
    return ArraySource(pairs.name, text_examples(unique))


def require_text(encoder: Encoder) -> None:
    """Raises UserError if the encoder takes no texts."""
    if "text" not in encoder.config.data.modality.partition(".")[0]:
        raise UserError(
            f"protocol 'sts' takes pairs of sentences, and this run is of {encoder.modality.noun}; "
            "give a run of recipe text"
        )


def evaluate_pairs(
    encoder: Encoder, config: Config, pairs: Pairs, corpus: Source | None
) -> dict[str, Any]:
    """Evaluates the last checkpoint and its baselines on pairs of sentences.

    Args:
        encoder: Encoder of the run.
        config: Config of the run, with the evaluation options to use.
        pairs: Pairs to evaluate on.
        corpus: Training split of the run, which the statistics of TF-IDF are those of; None: it
            cannot be read, and there is no such baseline.

    Returns:
        {"step", "sts": see ``protocols.sts.sts``, "random_init" and the baselines: {"sts"},
        "baseline_labels", "encoder_hash"}.
    """
    source = sentences_of(pairs)
    embed = make_embed(
        encoder.method.encoder, encoder.mesh, encoder.spec, batch_size=config.evaluate.batch_size
    )
    untrained = encoder_variables(encoder.untrained(source))
    texts = source.examples["text"].tolist()
    row = {text: number for number, text in enumerate(texts)}
    first, second = ([row[text] for text in side] for side in (pairs.first, pairs.second))

    def scores(vectors: Any) -> dict[str, Any]:
        return sts(cosines(vectors[first], vectors[second]), pairs.score)

    fits = {} if corpus is None else _fitted(corpus)
    return {
        "step": encoder.step,
        "sts": scores(encoder.embed(source)),
        UNTRAINED: {"sts": scores(embed(untrained, source))},
        **{name: {"sts": scores(fitted(texts))} for name, fitted in fits.items()},
        "baseline_labels": {
            UNTRAINED: BASELINES[UNTRAINED],
            **{name: KINDS[name][0] for name in fits},
        },
        "encoder_hash": {"last": variables_hash(encoder.model), "unchanged": True},
    }


def _fitted(corpus: Any) -> dict[str, Callable[[Sequence[str]], Any]]:
    texts = all_texts(corpus)
    return {name: fit(texts) for name, (_, fit) in KINDS.items()}
