"""Files of series: shapes, lengths, labels, missing values, and what is refused."""

import numpy as np
import pytest

from cssl_jax.data.sources.series import open_series, series_examples
from cssl_jax.errors import MissingDataError, UserError

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(6, 9, 2))
TS = """# a comment
@problemName Toy
@timeStamps false
@univariate false
@classLabel true up down
@data
1.0,2.0,3.0:4.0,5.0,6.0:up
1.5,?:2.5,3.5:down
7:8:up
"""


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_values_lengths_and_labels_of_an_npz(tmp_path):
    lengths = np.array([9, 3, 9, 1, 5, 9])
    path = saved(tmp_path / "x.npz", values=VALUES, lengths=lengths, labels=np.arange(6) % 3)
    source = open_series(path)
    assert source.examples["values"].dtype == np.float32
    assert source.examples["length"].tolist() == lengths.tolist()
    for row, values, length in zip(source.examples["values"], VALUES, lengths, strict=True):
        np.testing.assert_array_equal(row[:length], values[:length].astype(np.float32))
        assert not row[length:].any()
    assert source.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert len(source) == 6


def test_one_channel_and_labels_by_name(tmp_path):
    labels = np.array(["b", "a", "", "a", "b", "b"])
    source = open_series(str(saved(tmp_path / "x.npz", values=VALUES[..., 0], labels=labels)))
    assert source.examples["values"].shape == (6, 9, 1)
    assert source.classes == ("a", "b")
    assert source.labels.tolist() == [1, 0, -1, 0, 1, 1]


def test_missing_steps_at_the_end_are_padding_and_others_are_missing_values():
    values = VALUES.copy()
    values[0, 6:] = np.nan
    values[1, 2] = np.nan
    values[2, 8, 0] = np.nan
    examples = series_examples(values, "x")
    assert examples["length"].tolist() == [6, 9, 9, 9, 9, 9]
    assert np.isnan(examples["values"]).sum() == 3


def test_a_list_of_arrays_is_padded():
    examples = series_examples([VALUES[0], VALUES[1, :4], VALUES[2, :1]], "x")
    assert examples["length"].tolist() == [9, 4, 1]
    assert examples["values"].shape == (3, 9, 2)
    one_channel = series_examples([[1, 2, 3], [4]], "x")
    assert one_channel["values"][..., 0].tolist() == [[1, 2, 3], [4, 0, 0]]


def test_a_ts_file_of_several_channels_and_lengths(tmp_path):
    path = tmp_path / "Toy_TRAIN.ts"
    path.write_text(TS)
    source = open_series(path)
    assert source.examples["length"].tolist() == [3, 2, 1]
    assert source.examples["values"][0].tolist() == [[1, 4], [2, 5], [3, 6]]
    second = source.examples["values"][1]
    assert second[0].tolist() == [1.5, 2.5]
    assert np.isnan(second[1, 0])
    assert second[1, 1] == 3.5
    assert source.classes == ("down", "up")
    assert source.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@data\n", "has no series after @data"),
        ("@timeStamps true\n@data\n(0,1):(1,2)\n", "time stamps are not read"),
        ("@classLabel true a b\n@data\n1,2,x:a\n", "line 3: no series: could not convert"),
        ("@classLabel true a b\n@data\n1,2:1,2,3:a\n", "line 3: no series"),
    ],
)
def test_a_ts_file_that_cannot_be_read_is_refused_by_line(tmp_path, text, message):
    path = tmp_path / "x.ts"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        open_series(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"values": VALUES[0, 0]}, r"values are float64 \(2,\); give numbers \[N, T, C\]"),
        ({"values": np.full((2, 3), "x")}, "values are <U1"),
        ({"values": np.full((2, 3), np.inf)}, "series 0 has an infinite value"),
        (
            {"values": np.where(np.arange(6)[:, None, None] == 2, np.nan, VALUES)},
            "from 0 to 9; give one number from 1 to 9",
        ),
        (
            {"values": VALUES, "lengths": np.full(6, 10)},
            "from 10 to 10; give one number from 1 to 9",
        ),
        ({"values": VALUES, "lengths": np.ones(5, int)}, r"lengths are int64 \(5,\)"),
        ({"values": VALUES, "labels": np.zeros(5, int)}, "there are 6 series"),
        ({"values": VALUES, "labels": np.full(6, -2)}, "label -2 is negative"),
        ({"images": VALUES}, "needs an array named 'values'"),
    ],
)
def test_arrays_that_are_no_series_are_refused(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        open_series(saved(tmp_path / "x.npz", **arrays))


def test_a_file_that_is_missing_or_of_another_kind_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(MissingDataError, match=r"give an \.npz file with an array 'values'"):
        open_series(tmp_path / "none.npz")
    other = tmp_path / "x.txt"
    other.write_text("a")
    with pytest.raises(UserError, match="unknown suffix"):
        open_series(other)
