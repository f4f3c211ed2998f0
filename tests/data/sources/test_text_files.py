"""Text from files: lines, JSON lines, tables, and pairs with scores."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cssl_jax.data.sources.text import is_text_file, open_text
from cssl_jax.data.sources.text_pairs import open_pairs
from cssl_jax.errors import MissingDataError, UserError

ROWS = [
    {"text": 'He said "no", twice', "label": "b", "group": "x"},
    {"text": "  Zwei Häuser\u2028hier ", "label": "a", "group": "y"},
    {"text": "   ", "label": "a", "group": "y"},
    {"text": "third", "label": "", "group": "x"},
]
TEXTS = ['He said "no", twice', "Zwei Häuser\u2028hier", "third"]


def written(folder, suffix):
    path = folder / f"corpus{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif suffix == ".csv":
        quoted = [{key: '"' + x.replace('"', '""') + '"' for key, x in row.items()} for row in ROWS]
        lines = ["text,label,group", *(",".join(row.values()) for row in quoted)]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("\n".join(["text\tlabel\tgroup", *("\t".join(r.values()) for r in ROWS)]))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_table_gives_texts_labels_and_groups(suffix, tmp_path):
    path = written(tmp_path, suffix)
    found = open_text(path)
    assert found.examples["text"].tolist() == TEXTS
    assert (found.labels.tolist(), found.classes) == ([1, 0, -1], ("a", "b"))
    assert found.groups.tolist() == ["x", "y", "x"]
    assert "1 empty texts" in found.notes[0]
    assert is_text_file(str(path))
    assert open_text(path, labels="none").labels is None


def test_lines_are_texts(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes("\ufeffone\r\n\r\ntwo\x0cpages\nthree".encode())
    assert open_text(path).examples["text"].tolist() == ["one", "two\x0cpages", "three"]


def test_the_same_texts_have_the_same_fingerprint(tmp_path):
    found = [open_text(written(tmp_path, suffix)).fingerprint() for suffix in (".jsonl", ".csv")]
    assert found[0] == found[1]
    (tmp_path / "other.txt").write_text("\n".join([*TEXTS[:2], "thirds"]))
    (tmp_path / "same.txt").write_text("\n".join(TEXTS))
    other, same = (open_text(tmp_path / f"{name}.txt") for name in ("other", "same"))
    assert other.fingerprint() != same.fingerprint()
    assert same.take([0, 1]).fingerprint() != same.take([1, 0]).fingerprint()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": 3}\n', "text 1 is"),
        ("a.jsonl", "[1]\n", "no object"),
        ("a.jsonl", "{\n", "no JSON"),
        ("a.jsonl", "[" * 100_000, "no JSON"),
        ("a.csv", "body\nx\n", "--data.text-column"),
        ("a.csv", "text,text\nx,y\n", "same name"),
        ("a.csv", 'text\n"x\n', "cannot be read"),
        ("a.tsv", "text\tlabel\nx\n", "1 cells"),
        ("a.txt", "\n \n", "no text"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read"),
        ("a.csv", "text,group\nx,\n", "no group"),
        ("a.pdf", "x", "unknown suffix"),
    ],
)
def test_what_is_no_text_is_refused(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        open_text(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="is no file"):
        open_text(tmp_path / "absent.txt")


def test_a_lone_surrogate_of_json_becomes_a_character(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x \\ud800 y"}\n')
    assert open_text(path).examples["text"].tolist() == ["x ? y"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_damaged_files_get_an_answer(suffix, tmp_path):
    """Random changes of bytes: texts or UserError, nothing else."""
    whole = written(tmp_path, suffix).read_bytes()
    rng = random.Random(0)
    path = tmp_path / f"damaged{suffix}"
    for _ in range(150):
        content = bytearray(whole[: rng.randrange(1, len(whole) + 1)])
        for _ in range(rng.randrange(4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            open_text(path)
        except UserError:
            continue


# ------------------------------------------------------------------------------------------ pairs


def test_pairs_of_the_sts_benchmark_are_split_at_tabs(tmp_path):
    path = tmp_path / "sts-dev.csv"
    lines = [
        'main\tMSR\t2012\t0001\t5.000\tHe said "no\tNo, he said\n',
        "main\tMSR\t2012\t0002\t0.250\tA dog\tA cat\tlicence\n",
    ]
    path.write_text("".join(lines))
    found = open_pairs(path)
    assert found.first == ['He said "no', "A dog"]
    assert found.second == ["No, he said", "A cat"]
    assert found.score.tolist() == [5.0, 0.25]


def test_pairs_of_a_table_are_found_by_name(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('score,sentence1,sentence2\n1,"a, b",c\n2.5,d,e\n')
    found = open_pairs(path)
    assert (found.first, found.second) == (["a, b", "d"], ["c", "e"])
    assert found.score.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence1,sentence2,score\na,b,x\n", "score of pair 1"),
        ("sentence1,sentence2,score\na,b,nan\nc,d,1\n", "score of pair 1"),
        ("sentence1,sentence2,score\na,b,1\nc,d,1\n", "1 different scores"),
        ("sentence1,score\na,1\n", "no 'sentence2'"),
        ("", "cannot be read"),
    ],
)
def test_what_are_no_pairs_is_refused(content, message, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        open_pairs(path)
