"""Tokenizers: training is deterministic, texts survive, lengths are bucketed."""

import subprocess
import sys

import numpy as np
import pytest

from cssl_jax.data.text import tokenizer
from cssl_jax.errors import MissingDataError, UserError

CORPUS = [
    f"A {who} {does} the {what}."
    for who in ("man", "dog", "Katze")
    for does in ("eats", "sees", "läuft")
    for what in ("apple", "guitar", "日本語")
]
TRAIN = "tokenizer.train_tokenizer(CORPUS, vocabulary=300, lowercase=True)"


@pytest.fixture(scope="module")
def trained():
    return tokenizer.train_tokenizer(CORPUS, vocabulary=300, lowercase=True)


def test_training_gives_the_same_bytes_in_another_process(trained):
    program = (
        f"from cssl_jax.data.text import tokenizer\nCORPUS = {CORPUS!r}\nimport sys\n"
        f"sys.stdout.buffer.write({TRAIN}.encode())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert found.stdout.decode() == trained


def test_special_tokens_surround_a_text_and_padding_is_0(trained):
    found = tokenizer.tokenize(trained, ["A man eats", ""], 32)
    assert found["tokens"].shape == (2, 16)  # the smallest bucket
    for row, length in zip(found["tokens"], found["length"], strict=True):
        assert (row[0], row[length - 1]) == (2, 3)
        assert not row[length:].any()
    assert found["length"].tolist()[1] == 2


def test_no_text_has_unknown_tokens_and_texts_come_back(trained):
    texts = ["a man 😀 \u0007 eats 日本", "Straße\t9"]
    _, unknown = tokenizer.count_tokens(trained, texts)
    assert unknown.tolist() == [0, 0]
    found = tokenizer.tokenize(trained, texts, 64)
    back = tokenizer.detokenize(trained, found["tokens"], found["length"])
    assert back == [text.lower() for text in texts]


def test_long_texts_are_cut_and_keep_their_end(trained):
    found = tokenizer.tokenize(trained, ["apple " * 100], 20)
    assert found["tokens"].shape == (1, 20)
    assert (found["length"][0], found["tokens"][0, -1]) == (20, 3)


def test_the_bucket_holds_the_longest_text(trained):
    short, long = "eats", "guitar " * 30
    alone = tokenizer.tokenize(trained, [short], 128)
    both = tokenizer.tokenize(trained, [short, long], 128)
    assert both["tokens"].shape[1] in tokenizer.BUCKETS
    np.testing.assert_array_equal(both["tokens"][0, :16], alone["tokens"][0])


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": 3}', "\x00"])
def test_a_file_that_is_no_tokenizer_is_refused(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="no tokenizer"):
        tokenizer.read_tokenizer(tmp_path)


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="does not exist"):
        tokenizer.read_tokenizer(tmp_path / "absent.json")
