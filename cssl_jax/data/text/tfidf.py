"""TF-IDF vectors of words and of character n-grams, the baselines of text."""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import scipy.sparse

_WORD = re.compile(r"\w\w+")
GRAMS = (2, 3, 4)  # lengths of the character n-grams


def words(text: str) -> list[str]:
    """Lowercase words of at least two letters or digits.

    >>> words("A man's hat.")
    ['man', 'hat']
    """
    return _WORD.findall(text.lower())


def character_grams(text: str) -> list[str]:
    """Lowercase character n-grams within words, each word between two spaces.

    >>> character_grams("Hat")[:7]
    [' h', 'ha', 'at', 't ', ' ha', 'hat', 'at ']
    """
    found = []
    for word in text.lower().split():
        padded = f" {word} "
        for n in GRAMS:
            found += [padded[i : i + n] for i in range(max(len(padded) - n, 0) + 1)]
            if n >= len(padded):  # a shorter word than the n-gram counts once
                break
    return found


@dataclasses.dataclass(frozen=True)
class TfIdf:
    """TF-IDF of terms, fitted on a corpus, with the definitions of scikit-learn.

    A vector has tf * idf per term and norm 1: tf is the count, or 1 + ln(count) if ``sublinear``;
    idf is ln((1 + n) / (1 + df)) + 1 with n texts, df of which have the term. Terms that the corpus
    lacks do not count.

    Attributes:
        terms: Text -> its terms.
        columns: Column of every term.
        idf: float64 [terms].
        sublinear: True to dampen counts.
    """

    terms: Callable[[str], list[str]]
    columns: dict[str, int]
    idf: np.ndarray
    sublinear: bool

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        terms: Callable[[str], list[str]],
        *,
        sublinear: bool = False,
        limit: int = 0,
    ) -> "TfIdf":
        """Counts the terms of a corpus.

        Args:
            texts: Texts of the corpus.
            terms: Text -> its terms, such as ``words``.
            sublinear: True to dampen counts.
            limit: Maximum number of terms, those in the most texts; 0: no limit.
        """
        frequency: collections.Counter[str] = collections.Counter()
        count = 0
        for text in texts:
            frequency.update(set(terms(text)))
            count += 1
        ranked = sorted(frequency, key=lambda term: (-frequency[term], term))
        chosen = sorted(ranked[: limit or None])
        df = np.array([frequency[term] for term in chosen], float)
        columns = {term: column for column, term in enumerate(chosen)}
        return cls(terms, columns, np.log((1 + count) / (1 + df)) + 1, sublinear)

    def __call__(self, texts: Sequence[str]) -> Any:
        """Vectors of texts, scipy.sparse.csr_array float64 [N, terms]; a row without terms is 0."""
        values: list[float] = []
        columns: list[int] = []
        ends = [0]
        for text in texts:
            counts = collections.Counter(
                column
                for term in self.terms(text)
                if (column := self.columns.get(term)) is not None
            )
            columns += counts.keys()
            values += counts.values()
            ends.append(len(columns))
        data = np.array(values, float)
        if self.sublinear:
            data = 1 + np.log(data)
        data = data * self.idf[columns] if columns else data
        rows = np.repeat(np.arange(len(texts)), np.diff(ends))
        square = np.bincount(rows, data**2, minlength=len(texts))
        data = data / np.sqrt(square)[rows]
        shape = len(texts), max(len(self.columns), 1)
        return scipy.sparse.csr_array((data, columns, ends), shape=shape)


# The two baselines by their keys in results.json.
KINDS: dict[str, tuple[str, Callable[..., TfIdf]]] = {
    "tfidf_words": ("TF-IDF of words", functools.partial(TfIdf.fit, terms=words)),
    "tfidf_characters": (
        "TF-IDF of character 2- to 4-grams",
        functools.partial(TfIdf.fit, terms=character_grams, sublinear=True),
    ),
}
