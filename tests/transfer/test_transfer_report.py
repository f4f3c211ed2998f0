"""finetune.json and adaptation.json as records, and their tables in three forms."""

import json

import pytest

from cssl_jax.cli import main as cli
from cssl_jax.errors import UserError
from cssl_jax.transfer.transfer_report import read_results, write_transfer_report
from cssl_jax.transfer.transfer_results import AdaptationResults, FinetuneResults, over_seeds
from cssl_jax.transfer.transfer_tables import format_results, table

TRAINED = {"batch_size": 64, "epochs": 30, "steps": 1230, "learning_rate": 0.0125}
# As commands wrote these files before there were records; "date" stands for a later version's key.
FINETUNE = {
    "run": "mine",
    "fractions": {
        "0.01": {
            "labels": 14,
            "pretrained": {"top1": 0.5, "top5": 0.75, "per_class": [1.0, None], **TRAINED},
            "random": {"top1": 0.25, "top5": 0.5, "per_class": [0.5, None], **TRAINED},
            "features": {"top1": 0.375, "top5": 1.0},
            "pixels": {"top1": 0.125, "top5": 1.0},
        },
        "1": {
            "labels": 1438,
            "pretrained": {"top1": 1.0, "top5": 1.0, **TRAINED},
            "random": {"top1": 0.75, "top5": 1.0, **TRAINED},
            "features": {"top1": 0.625, "top5": 1.0},
            "pixels": {"top1": 0.875, "top5": 1.0},
        },
    },
    "selection": {"words": "all images report: not selected on any data"},
    "date": "today",
}
ADAPTATION = {
    "run": "mine",
    "encoder_hash": "ab12",
    "source": "/data/a|b",
    "target": "/data/c",
    "images": {"source": 8, "source_test": 1000, "target": 4, "target_labels": 0, "target_test": 9},
    "seeds": 1,
    "epochs": 30,
    "batch_size": 64,
    "rows": {
        "source": {"source": {"top1": [0.5], "mean": 0.5, "std": None}},
        "bn": {"source": {"top1": [0.25], "mean": 0.25, "std": None}},
    },
    "leakage": {"source": {"exact": 0, "words": "none is <among> the others"}},
}
KINDS = [
    pytest.param(FinetuneResults, FINETUNE, id="finetune"),
    pytest.param(AdaptationResults, ADAPTATION, id="adaptation"),
]


@pytest.mark.parametrize(("kind", "content"), KINDS)
def test_a_file_is_read_and_written_back_without_loss(kind, content):
    assert json.dumps(kind.from_json(content).to_json()) == json.dumps(content)


def test_attributes_and_keys_give_the_same_values():
    tuned = FinetuneResults.from_json(FINETUNE)
    assert tuned.fractions["0.01"].pretrained.steps == 1230
    assert tuned["fractions"]["0.01"]["pretrained"]["steps"] == 1230
    adapted = AdaptationResults.from_json(ADAPTATION)
    assert adapted.rows["bn"].source.top1 == adapted["rows"]["bn"]["source"]["top1"] == [0.25]
    assert adapted.rows["bn"].source.std is adapted["rows"]["bn"]["source"]["std"] is None
    assert adapted.rows["bn"].target is None
    assert list(adapted.rows["bn"]) == ["source"]


def test_the_deviation_over_seeds_is_that_of_a_sample():
    scores = over_seeds([0.5, 0.6, 0.7])
    assert scores.mean == pytest.approx(0.6)
    assert scores.std == pytest.approx(0.1)
    assert over_seeds([0.5]).to_json() == {"top1": [0.5], "mean": 0.5, "std": None}


def test_the_table_of_fine_tuning_has_a_column_per_fraction():
    found = table(FinetuneResults.from_json(FINETUNE))
    assert found.titles == ["top-1 by labels", "1 % (14)", "100 % (1,438)"]
    assert found.cells == [
        ["fine-tuned from the run", "50.0 %", "100.0 %"],
        ["trained from random weights", "25.0 %", "75.0 %"],
        ["logistic regression on frozen features", "37.5 %", "62.5 %"],
        ["logistic regression on raw pixels", "12.5 %", "87.5 %"],
        ["steps x batch size", "1,230 x 64", "1,230 x 64"],
        ["learning rate", "0.013", "0.013"],
    ]
    lines = format_results(FinetuneResults.from_json(FINETUNE)).splitlines()
    assert len({len(line) for line in lines[:7]}) == 1  # the columns are aligned
    assert lines[-1] == "all images report: not selected on any data"


def test_the_table_of_adaptation_says_where_labels_are_missing():
    text = format_results(AdaptationResults.from_json(ADAPTATION))
    assert text.splitlines()[2].split()[-4:] == ["no", "labels", "25.0", "%"]
    assert "accuracy on the target is unknown" in text


def test_the_report_command_writes_a_page_and_markdown(tmp_path, capsys):
    for name, content in (("finetune.json", FINETUNE), ("adaptation.json", ADAPTATION)):
        (tmp_path / name).write_text(json.dumps(content))
    assert cli.main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    markdown = (tmp_path / "report.md").read_text()
    for text in (printed, page, markdown):
        assert "62.5 %" in text
        assert "fine-tuned from the run" in text
        assert "no labels" in text
    assert "none is &lt;among&gt; the others" in page
    assert "| steps x batch size | 1,230 x 64 | 1,230 x 64 |" in markdown
    assert cli.main(["report", str(tmp_path), str(tmp_path / "other")]) == 2
    assert "has a report of its own: name it alone" in capsys.readouterr().err


def test_files_that_are_no_results_are_named(tmp_path):
    with pytest.raises(UserError, match=r"has neither finetune\.json nor adaptation\.json"):
        read_results(tmp_path)
    (tmp_path / "finetune.json").write_text('{"run": "mine"}')
    with pytest.raises(UserError, match=r"finetune\.json cannot be read .* has no 'fractions'"):
        write_transfer_report(tmp_path)
