"""The tables of README.md and docs/ show what ``benchmarks/results/`` holds."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def document_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import document_tables

    return document_tables


def test_every_table_is_that_of_its_json(document_tables):
    for path in document_tables.documents():
        text = path.read_text()
        assert document_tables.filled(text) == text, (
            f"{path.name}: run python benchmarks/document_tables.py"
        )


def test_every_known_table_stands_in_a_document_once(document_tables):
    blocks = document_tables.BLOCK
    names = [
        name
        for path in document_tables.documents()
        for _, name, _ in blocks.findall(path.read_text())
    ]
    assert sorted(names) == sorted(document_tables.TABLES)


def test_a_changed_value_is_noticed(document_tables):
    text = (ROOT / "docs" / "results.md").read_text()
    (mean,) = re.findall(r"\| trained encoder \| \*\*([\d.]+) \+-", text)
    assert document_tables.filled(text.replace(mean, "99.99")) == text


def test_the_demos_closing_table_is_that_of_the_measured_run():
    text = (ROOT / "README.md").read_text()
    results = json.loads((ROOT / "benchmarks/results/protocols.json").read_text())
    assert f"measured {results['digits']['date']} on 2 cores of an AMD EPYC" in text
    assert results["digits"]["machine"] == "AMD EPYC, 2 cores, x86_64"
    results = results["digits"]["results"]
    rows = {
        "trained encoder": results,
        "untrained encoder": results["random_init"],
        "raw pixels": results["pixels"],
    }
    for name, found in rows.items():
        values = [found[p][top] for p in ("linear", "knn") for top in ("top1", "top5")]
        (line,) = re.findall(rf"^    {name} +(.*)$", text, re.MULTILINE)
        assert line.split() == [part for value in values for part in (f"{100 * value:.1f}", "%")]


def test_the_readmes_values_of_the_losses_are_those_measured():
    text = (ROOT / "README.md").read_text()
    report = json.loads((ROOT / "benchmarks/results/loss.json").read_text())["peers"]
    rows = {row["contender"]: row for row in report["rows"] if row["pairs"] == 8192}

    def cost(contender):
        row = rows[contender]
        return f"{row['running_bytes'] / 1e6:,.0f} MB and {row['time_s']:.1f} s"

    assert f"{cost('tiled')} at 8,192 pairs; lightly's loss takes {cost('lightly')}" in text
    assert f"2 CPU cores of an AMD EPYC, {report['date']}" in text
    assert report["machine"] == "AMD EPYC, 2 cores, x86_64"


def test_the_page_on_scaling_states_the_kernels_and_the_pace_that_were_compiled():
    text = " ".join((ROOT / "docs" / "scaling.md").read_text().split())
    found = json.loads((ROOT / "benchmarks" / "results" / "targets.json").read_text())
    gpu = found["imagenet_resnet50 at batch 64"]["cuda:h100"]["compiled"]["origins"]
    parts = {name: part["kernels"] for name, part in gpu.items()}
    assert f"of the {sum(parts.values()):,}, the forward pass" in text
    passes = [parts[f"encoder, {way}"] for way in ("forward", "backward")]
    assert f"takes {passes[0]} and the backward pass {passes[1]} (" in text
    assert f"cuDNN's layout {parts['unnamed']}," in text
    pod = found["imagenet_resnet50"]["tpu:v5e:4x8"]
    minutes = 1_281_167 * 2 * 100 / pod["views_per_second"] / 60
    assert f"at least {minutes:.0f} minutes at that bound" in text
    assert "16.31 of 15.75 GiB" in found["imagenet_resnet50"]["tpu:v5e:2x4"]["failed"]
