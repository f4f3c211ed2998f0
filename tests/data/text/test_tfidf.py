"""TF-IDF vectors are those of scikit-learn."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from cssl_jax.data.text.tfidf import KINDS

CORPUS = ["A man plays a guitar.", "The man's dog, a dog!", "Ein Haus am See", "x", "Zwei Häuser"]
TEXTS = [*CORPUS, "a guitar of an unknown kind", "", "!?"]
PEERS = {
    "tfidf_words": TfidfVectorizer(),
    "tfidf_characters": TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True),
}


@pytest.mark.parametrize("name", KINDS)
def test_vectors_are_those_of_another_library(name):
    _, fit = KINDS[name]
    ours, peer = fit(CORPUS), PEERS[name].fit(CORPUS)
    terms = peer.get_feature_names_out().tolist()
    assert sorted(ours.columns) == terms
    columns = [ours.columns[term] for term in terms]
    expected = peer.transform(TEXTS).toarray()
    np.testing.assert_allclose(ours(TEXTS).toarray()[:, columns], expected, atol=1e-12)


def test_a_limit_keeps_the_terms_of_the_most_texts():
    _, fit = KINDS["tfidf_words"]
    assert set(fit(CORPUS, limit=1).columns) == {"man"}  # in two texts, and dog twice in one
