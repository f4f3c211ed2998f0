"""Long tables of series: order, missing values, labels, groups, and what is refused."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cssl_jax.data.sources.long_table import read_long_table
from cssl_jax.data.sources.series import is_series_file, open_series
from cssl_jax.errors import UserError

CSV = """id,time,x,y,label,group
b,2,1.5,,up,one
a,1,10,20,down,two
b,1,1,2,up,one
a,3,30,NaN,down,two
007,0,5,6,,one
a,2,20,?,,two
"""


def written(path, text):
    path.write_text(text)
    return path


@pytest.fixture(params=["csv", "semicolons", "parquet"])
def table(request, tmp_path):
    """The same table as three files."""
    if request.param == "csv":
        return written(tmp_path / "x.csv", CSV)
    if request.param == "semicolons":
        return written(tmp_path / "x.csv", "\ufeff" + CSV.replace(",", ";"))
    columns = {
        "id": ["b", "a", "b", "a", "007", "a"],
        "time": [2, 1, 1, 3, 0, 2],
        "x": [1.5, 10, 1, 30, 5, 20],
        "y": [None, 20.0, 2.0, float("nan"), 6.0, None],
        "label": ["up", "down", "up", "down", None, ""],
        "group": ["one", "two", "one", "two", "one", "two"],
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    return tmp_path / "x.parquet"


def test_rows_are_series_in_the_order_of_time(table):
    source = open_series(table)
    assert is_series_file(str(table))
    assert source.names.tolist() == ["b", "a", "007"]
    assert source.examples["length"].tolist() == [2, 3, 1]
    np.testing.assert_array_equal(source.examples["values"][0, :2], [[1, 2], [1.5, np.nan]])
    np.testing.assert_array_equal(
        source.examples["values"][1], [[10, 20], [20, np.nan], [30, np.nan]]
    )
    assert not source.examples["values"][2, 1:].any()
    assert source.classes == ("down", "up")
    assert source.labels.tolist() == [1, 0, -1]
    assert source.groups.tolist() == ["one", "two", "one"]
    assert "the channels are the columns x, y" in source.notes[0]


def test_dates_are_sorted_and_rows_without_time_keep_their_order(tmp_path):
    dated = "id,time,x\n1,2024-02-01,2\n1,2023-12-31,1\n1,2024-10-05,3\n"
    found = read_long_table(written(tmp_path / "a.csv", dated))
    assert found.series[0].ravel().tolist() == [1, 2, 3]
    found = read_long_table(written(tmp_path / "b.csv", "x,id\n3,1\n7,2\n1,1\n2,1\n"))
    assert [one.ravel().tolist() for one in found.series] == [[3, 1, 2], [7]]
    assert (found.labels, found.groups) == (None, None)


def test_whole_numbers_as_labels_are_class_numbers(tmp_path):
    found = read_long_table(written(tmp_path / "a.csv", "id,x,label\na,1,10\nb,1,2\nc,1,-1\n"))
    assert found.labels.tolist() == [10, 2, -1]


def test_data_labels_none_ignores_labels_and_rules_of_folders_are_refused(tmp_path):
    path = written(tmp_path / "x.csv", CSV)
    assert open_series(path, "none").labels is None
    with pytest.raises(UserError, match=r"data.labels is 'folder'.* give --data.labels auto"):
        open_series(path, "folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give one row per series and step"),
        ("time,x\n1,2\n", "has the columns 'time', 'x'; give one row"),
        ("id,time\na,1\n", "has the columns 'id', 'time'; give one row"),
        ("id,x\n", "has no row below the header"),
        ("id,x\na,1\n,2\n", "row 2 has no id"),
        ("id,time,x\na,1,1\na,,2\n", "row 2 has no time"),
        ("id,time,x\na,1,1\nb,1,1\na,1,2\n", "series 'a' has two rows of time '1'"),
        ("id,x\na,1\na,high\n", "column 'x' is no channel of numbers: it holds '1'"),
        ("id,x,label\na,1,u\na,2,v\n", "series 'a' has the labels 'u' and 'v'"),
        ("id,x,group\na,1,u\na,2,v\n", "series 'a' has the groups 'u' and 'v'"),
        ("id,x,group\na,1,u\nb,2,\n", "series 'b' has no group"),
        ("id,x\na,1\na,1,2\n", "cannot be read as a CSV table"),
        ("id,x\na,inf\n", "has an infinite value"),
        ("id,x,x\na,1,2\n", "has the columns 'id', 'x', 'x'"),
    ],
)
def test_a_table_that_holds_no_series_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        open_series(written(tmp_path / "x.csv", text))


def test_damaged_bytes_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    for suffix in ("csv", "parquet"):
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(rng.bytes(300))
        assert not is_series_file(str(path))
        with pytest.raises(UserError, match="give one row per series and step"):
            open_series(path)


def test_groups_of_an_npz_are_text(tmp_path):
    values = np.zeros((3, 4))
    np.savez(tmp_path / "x.npz", values=values, groups=np.array([7, 7, 1]))
    assert open_series(tmp_path / "x.npz").groups.tolist() == ["7", "7", "1"]
    np.savez(tmp_path / "y.npz", values=values, groups=np.array([7, 1]))
    with pytest.raises(UserError, match=r"groups are int64 \(2,\), but there are 3 series"):
        open_series(tmp_path / "y.npz")
