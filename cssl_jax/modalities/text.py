"""Text: sentences and short documents as tokens."""

import dataclasses
import functools
import os
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import PIL.Image
import PIL.ImageDraw

from cssl_jax.augment.text.batched import MEMBERS
from cssl_jax.augment.text.batched import apply_views as token_views
from cssl_jax.augment.text.policy import TextPolicy, sample_views
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.config.text import TextData
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import ArraySource, Examples, Source
from cssl_jax.data.sources.text import (
    all_texts,
    check_labels,
    is_text_file,
    open_text,
    text_examples,
)
from cssl_jax.data.text import tokenizer
from cssl_jax.data.text.tfidf import KINDS
from cssl_jax.errors import UserError, short
from cssl_jax.modalities import text_files
from cssl_jax.modalities.base import Baseline, Inputs, Modality, Parameters, Views

TERMS = 4096  # maximum number of terms of the baselines, whose vectors are dense
REDUCED_LENGTH = 16  # maximum number of tokens of a view in a check
REDUCED_VOCABULARY = 512  # maximum number of tokens of the encoder in a check
CAPTION = 160  # maximum number of characters of a text in a report
_TILE = (96, 6, 16)  # side of a tile in pixels, lines, characters per line


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSpec(InputSpec):
    """Input of an encoder of text; ``size`` is the maximum number of tokens.

    Attributes:
        tokenizer: The tokenizer as JSON of the library tokenizers.
        vocabulary: Number of tokens of the encoder.
    """

    tokenizer: str
    vocabulary: int


def open_source(text: str | os.PathLike[str], data: TextData) -> Source:
    """Opens the texts of ``data.source``."""
    return open_text(text, column=data.text_column, labels=data.labels)


def checked_texts(values: Any, spec: TextSpec) -> Examples:
    """Examples of what a user passes to an encoder.

    Args:
        values: N texts, a list of str.
        spec: Input of the encoder.

    Raises:
        UserError: They are no texts.
    """
    if isinstance(values, str) or not hasattr(values, "__len__") or not len(values):
        raise UserError(f"texts are {short(repr(values))}; give a list of at least one str")
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise UserError(f"text {number} is {short(repr(value))}; give a list of str")
    # A lone surrogate is no character: no tokenizer takes it.
    return text_examples([str(x).encode("utf-8", "replace").decode("utf-8") for x in values])


def input_spec(data: TextData, train: ArraySource) -> TextSpec:
    """Length and tokenizer of the encoder's input.

    Raises:
        UserError: The given tokenizer has more tokens than the encoder.
    """
    if data.tokenizer:
        made = tokenizer.read_tokenizer(data.tokenizer)
    else:
        made = tokenizer.train_tokenizer(
            all_texts(train), vocabulary=data.vocabulary, lowercase=data.lowercase
        )
    return _fitting(
        TextSpec(kind=data.modality, size=data.length, tokenizer=made, vocabulary=data.vocabulary)
    )


def inherited(spec: TextSpec, other: TextSpec) -> TextSpec:
    """The specification with the tokenizer of another run, whose weights are taken."""
    return _fitting(dataclasses.replace(spec, tokenizer=other.tokenizer))


def _fitting(spec: TextSpec) -> TextSpec:
    count = tokenizer.vocabulary_size(spec.tokenizer)
    if count > spec.vocabulary:
        raise UserError(
            f"the tokenizer has {count} tokens and data.vocabulary is {spec.vocabulary}; give "
            f"--data.vocabulary {count}"
        )
    return spec


def to_arrays(source: Any, spec: TextSpec) -> Any:
    """The source with tokens in place of texts: tokens int32 [N, size] and length int32 [N].

    Those of a positive and a negative have the names in ``MEMBERS``.
    """
    if "text" not in source.examples:
        return source
    examples: Examples = {}
    for member, texts in source.examples.items():
        made = tokenizer.tokenize(spec.tokenizer, texts.tolist(), spec.size)
        tokens, length = MEMBERS[member]
        examples |= {tokens: made["tokens"], length: made["length"]}
    return dataclasses.replace(source, examples=examples)


def from_arrays(source: Any, spec: TextSpec) -> Any:
    """The source with texts in place of tokens; special tokens are omitted."""
    if "text" in source.examples:
        return source
    examples: Examples = {}
    for member, names in MEMBERS.items():
        if names[0] in source.examples:
            tokens, length = (np.asarray(source.examples[name]) for name in names)
            texts = tokenizer.detokenize(spec.tokenizer, tokens, length)
            examples[member] = text_examples(texts)["text"]
    return dataclasses.replace(source, examples=examples)


def members(source: ArraySource) -> list[ArraySource]:
    """Sources of the texts, the positives and the negatives, without labels but for the texts."""
    found = [dataclasses.replace(source, examples=text_examples(source.examples["text"].tolist()))]
    for name, texts in source.examples.items():
        if name != "text":
            found.append(ArraySource(f"{source.name}, {name}", text_examples(texts.tolist())))
    return found


def misfit(source: ArraySource, spec: TextSpec) -> str:
    """Reason why an encoder cannot take the examples: they are no texts."""
    return "" if {"text", "tokens"} & set(source.examples) else "the examples are no texts"


def view_examples(examples: Examples, drawn: Parameters, group: SizedGroup) -> Examples:
    """Views as tokens [n, k, size] and length [n, k]."""
    return token_views(examples, drawn, policy=group.policy, size=group.size)


def apply_views(examples: Examples, drawn: Parameters, group: SizedGroup, spec: TextSpec) -> Views:
    """Views as tokens [n, k, size] and length [n, k]."""
    return view_examples(examples, drawn, group)


def prepare(examples: Examples, spec: TextSpec) -> Inputs:
    """The tokens of the texts themselves, without those of positives and negatives."""
    return {name: examples[name] for name in MEMBERS["text"]}


def zeros(spec: TextSpec, size: int, n: int, k: int) -> Views:
    """Views of padding."""
    return {"tokens": np.zeros((n, k, size), np.int32), "length": np.full((n, k), size, np.int32)}


def assumed(data: TextData, count: int) -> tuple[TextSpec, Examples]:
    """Specification and shapes of texts that are not read, with a positive and a negative each."""
    spec = TextSpec(kind=data.modality, size=data.length, tokenizer="", vocabulary=data.vocabulary)
    shapes: Examples = {}
    for tokens, length in MEMBERS.values():
        shapes[tokens] = jax.ShapeDtypeStruct((count, data.length), np.int32)
        shapes[length] = jax.ShapeDtypeStruct((count,), np.int32)
    return spec, shapes


def _baseline(name: str) -> Baseline:
    label, fit = KINDS[name]
    return Baseline(label=label, fit=functools.partial(_dense, fit))


def _dense(fit: Callable[..., Any], train: Any) -> Callable[[Source], np.ndarray]:
    """Function from a source to the TF-IDF of its texts, float32 [N, at most TERMS]."""
    fitted = fit(train.examples["text"].tolist(), limit=TERMS)

    def features(source: Any) -> np.ndarray:
        found: np.ndarray = fitted(source.examples["text"].tolist()).toarray().astype(np.float32)
        return found

    return features


def show(source: Any) -> tuple[int, Iterator[np.ndarray]]:
    """The first words of every text."""
    return _TILE[0], (_drawn(text) for text in source.examples["text"])


def captions(source: Any) -> list[str]:
    """The start of every text."""
    return [
        text if len(text) <= CAPTION else text[: CAPTION - 1] + "…"
        for text in source.examples["text"].tolist()
    ]


def _drawn(text: str) -> np.ndarray:
    """The start of a text, in lines, uint8 [side, side, 3]."""
    side, lines, width = _TILE
    image = PIL.Image.new("RGB", (side, side), "white")
    # Pillow's own font has the letters of Latin-1 only.
    shown = text.encode("latin-1", "replace").decode("latin-1")
    rows = textwrap.wrap(shown, width)[:lines]
    PIL.ImageDraw.Draw(image).multiline_text((2, 2), "\n".join(rows), fill="black")
    return np.asarray(image)


def check(data: TextData, policy: TextPolicy) -> None:
    """Refuses rules for labels that texts do not have.

    Raises:
        UserError: ``data.labels`` is neither "auto" nor "none".
    """
    check_labels(data.labels)


TEXT = Modality(
    noun="texts",
    one="text",
    unit="tokens",
    data=TextData,
    augment=TextPolicy,
    spec=TextSpec,
    open=open_source,
    examples=checked_texts,
    input_spec=input_spec,
    inherited=inherited,
    to_arrays=to_arrays,
    from_arrays=from_arrays,
    members=members,
    encoder_options=lambda data: {"vocabulary": data.vocabulary},
    layout=lambda source: "texts",
    misfit=misfit,
    sample_views=sample_views,
    apply_views=apply_views,
    view_examples=view_examples,
    prepare=prepare,
    zeros=zeros,
    baselines={name: _baseline(name) for name in KINDS},
    show=show,
    captions=captions,
    check=check,
    assumed=assumed,
    supervised=lambda spec: {"data.length": spec.size, "data.vocabulary": spec.vocabulary},
    reduced=lambda data: {
        "length": min(data.length, REDUCED_LENGTH),
        "vocabulary": max(261, min(data.vocabulary, REDUCED_VOCABULARY)),
    },
    write=text_files.write,
    holds=is_text_file,
    examine=text_files.examine,
    divide=text_files.divide,
)
