"""`cssl-jax data check` and `data split` on series, and splits that keep groups whole."""

import json

import numpy as np
import pytest

from cssl_jax.cli import main as cli
from cssl_jax.data.sources import base as sources
from cssl_jax.data.sources.series import open_series
from cssl_jax.errors import UserError


def table(path, series=30, groups=5):
    """A table whose channel y is constant and whose series 3 and 8 are identical."""
    rng, rows = np.random.default_rng(0), ["id,time,x,y,label,group"]
    for number in range(series):
        values = np.random.default_rng(3 if number == 8 else number).normal(size=6)
        label = number % 3 if number < series - 2 else ""
        for step in range(3 if number == 5 else 6):
            x = "" if rng.random() < 0.1 and number not in (3, 8) else values[step]
            rows.append(f"s{number},{step},{x},1,{label},g{number % groups}")
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_report_counts_what_numpy_counts(tmp_path, capsys):
    path = table(tmp_path / "x.csv")
    assert cli.main(["data", "check", str(path), "--json", str(tmp_path / "x.json")]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    source = open_series(path)
    values, length = source.examples["values"], source.examples["length"]
    known = [row[:count] for row, count in zip(values, length, strict=True)]
    missing = np.isnan(np.concatenate(known))
    assert (found["series"], found["channels"], found["steps"]) == (30, 2, 177)
    assert found["lengths"] == [3, 6, 6]
    assert found["missing"] == pytest.approx(missing.mean())
    assert found["missing_by_channel"] == pytest.approx(missing.mean(axis=0))
    assert found["series_with_missing"] == sum(np.isnan(one).any() for one in known)
    assert found["constant_channels"] == [1]
    assert found["duplicates"] == [["s3", "s8"]]
    assert found["duplicates_with_other_labels"] == 1
    assert found["classes"] == {"0": 10, "1": 9, "2": 9}
    assert found["unlabelled"] == 2
    assert found["groups"] == {f"g{i}": 6 for i in range(5)}
    text = capsys.readouterr().out
    for line in (
        "30 series of 2 channel(s)",
        "lengths   3 to 6 steps, median 6, 2 different",
        "channel 1 has one value in the whole set",
        "labels    3 classes, 2 series without label",
        "groups    5, of 6 to 6 series",
        "identical series: 1 sets, 1 of them with different labels, 0 across groups",
    ):
        assert line in text


def test_series_without_values_are_named(tmp_path, capsys):
    values = np.ones((3, 4, 1))
    values[1] = np.nan
    np.savez(tmp_path / "x.npz", values=values, lengths=np.array([4, 4, 2]))
    assert cli.main(["data", "check", str(tmp_path / "x.npz")]) == 0
    text = capsys.readouterr().out
    assert "empty     1 series without any value: 1" in text
    assert "labels    none" in text


def test_a_split_into_files_keeps_groups_whole(tmp_path, capsys):
    path = table(tmp_path / "x.csv")
    words = ["data", "split", str(path), "--output", str(tmp_path / "out"), "--fractions"]
    assert cli.main([*words, "0.6", "0.2", "0.2"]) == 0
    parts = [open_series(tmp_path / "out" / f"{n}.npz") for n in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [18, 6, 6]
    groups = [set(part.groups.tolist()) for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 5
    assert f"{tmp_path / 'out' / 'test.npz'}: 6 series" in capsys.readouterr().out
    assert {part.classes for part in parts} == {open_series(path).classes}


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
def test_a_validation_split_holds_out_whole_groups(fraction):
    rng = np.random.default_rng(0)
    groups = np.array([f"g{i}" for i in rng.integers(0, 10, 200)])
    for seed in range(5):
        train, held_out = sources.split(200, fraction, seed, groups)
        assert sorted([*train, *held_out]) == list(range(200))
        assert not set(groups[train]) & set(groups[held_out])
        # Within half of the largest group, of about 30.
        assert abs(len(held_out) - 200 * fraction) <= 20
    again = sources.split(200, fraction, 4, groups)
    np.testing.assert_array_equal(again[1], held_out)
    assert not np.array_equal(sources.split(200, fraction, 0, groups)[1], held_out)


def test_one_group_cannot_be_split():
    with pytest.raises(UserError, match=r"all 4 examples are of group 'a'.*validation_source"):
        sources.split(4, 0.5, 0, np.array(["a"] * 4))
