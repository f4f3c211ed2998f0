"""`cssl-jax data check` and `data split` on texts."""

import json

import pytest

from cssl_jax.cli import main as cli
from cssl_jax.data.sources.text import open_text

ROWS = [{"text": f"text number {i}", "label": "ab"[i % 2]} for i in range(28)]
ROWS += [{"text": "text number 3", "label": "b"}, {"text": "caf\ufffd " * 40, "label": ""}]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, {"text": " "}]))
    return path


def test_the_report_counts_what_the_file_has(corpus, tmp_path, capsys):
    assert cli.main(["data", "check", str(corpus), "--json", str(tmp_path / "x.json")]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    lengths = sorted(len(row["text"].strip()) for row in ROWS)
    assert found["characters"] == [lengths[0], lengths[15], lengths[28], lengths[29]]
    assert found["words"] == [3, 3, 3, 40]
    assert (found["texts"], found["duplicates"], found["undecoded"]) == (30, 1, 1)
    assert found["repeated"] == ["text number 3"]
    assert (found["classes"], found["unlabelled"]) == ({"a": 14, "b": 15}, 1)
    assert found["above"]["32"] == 1
    text = capsys.readouterr().out
    for line in (
        "30 texts",
        "1 texts repeat an earlier one",
        "1 texts hold the character U+FFFD",
        "2 classes, 1 texts without label",
        "1 empty texts are omitted",
    ):
        assert line in text


def test_a_split_keeps_identical_texts_and_the_fractions_of_classes(corpus, tmp_path, capsys):
    words = ["--output", str(tmp_path / "parts"), "--fractions", "0.5", "0.5", "0"]
    assert cli.main(["data", "split", str(corpus), *words]) == 0
    assert "train.jsonl: " in capsys.readouterr().out
    parts = [open_text(tmp_path / "parts" / f"{name}.jsonl") for name in ("train", "validation")]
    train, validation = (set(part.examples["text"]) for part in parts)
    assert not train & validation
    assert sum(map(len, parts)) == 30
    assert all(abs((part.labels == 0).sum() - 7) <= 1 for part in parts)
