"""Small texts for tests: sentences of a grammar, whose subject is their class."""

import numpy as np

from cssl_jax.config import TextData
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.sources.text import text_examples
from cssl_jax.modalities import text

SUBJECTS = ("dog", "man", "woman")
VERBS = ("eats", "rides", "sees", "holds")
OBJECTS = ("an apple", "a horse", "the ball", "a very old guitar", "it")
ADVERBS = ("", " now", " slowly", " again")


def sentences(count=60):
    """(texts, labels), at most 240 of them and all different."""
    every = [
        f"The {s} {v} {o}{a}." for a in ADVERBS for v in VERBS for o in OBJECTS for s in SUBJECTS
    ]
    return every[:count], np.arange(count) % 3


def source(count=60, groups=False):
    texts, labels = sentences(count)
    names = np.array([f"author {number // (count // 5)}" for number in range(count)])
    return ArraySource(
        "sentences",
        text_examples(texts),
        labels,
        classes=SUBJECTS,
        groups=names if groups else None,
    )


def write(path, count=60, groups=False):
    """Path of a .jsonl file of texts."""
    return text.TEXT.write(source(count, groups), TextData(), 0, path)
