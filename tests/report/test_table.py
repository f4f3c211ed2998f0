"""The terminal, Markdown and HTML show the same cells of one table."""

import html
import re

from cssl_jax.evaluate.results import Results
from cssl_jax.report.results_table import results_tables
from cssl_jax.report.table import Column, Table, to_html, to_markdown, to_terminal


def scores(top1, recall):
    return {
        "knn": {"top1": top1, "top5": 1.0, "by_k": {"1": {"top1": 0.5}, "20": {"top1": 0.25}}},
        "few_shot": {"shots": {"1": {"top1": 0.5, "ci95": 0.125}}},
        "retrieval": {"recall": {"1": recall}, "map": 0.5, "queries": 4},
        "segment": {"mean_iou": 0.5, "pixel_accuracy": None, "per_class_iou": [0.5] * 12},
    }


def html_cells(text):
    cells = re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", text)
    return [html.unescape(cell) for cell in cells]


def test_all_three_renderers_show_the_same_cells_of_all_protocols():
    results = Results.from_json(
        {"step": 1, "num_classes": 10, **scores(0.875, 0.25), "pixels": scores(0.5, None)}
    )
    tables = results_tables(results.rows, 10)
    titles = ["knn top-1", "1", "1 per class", "recall@1", "mean IoU", "0", "10"]
    assert [table.titles[1] for table in tables] == titles
    for table in tables:
        expected = [table.titles, *table.cells]
        shown = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in to_markdown(table)
        ]
        assert [shown[0], *shown[2:]] == expected
        assert html_cells(to_html(table)) == [cell for row in expected for cell in row]
        lines = [re.split(r" {2,}", line.strip()) for line in to_terminal(table).splitlines()]
        assert lines == [[cell for cell in row if cell] for row in expected]
    assert tables[0].cells == [
        ["trained encoder", "87.5 %", "100.0 %"],
        ["raw pixels", "50.0 %", "100.0 %"],
    ]
    assert tables[3].cells[1] == ["raw pixels", "-", "50.0 %"]


def test_a_column_formats_fractions_numbers_texts_and_missing_values():
    assert Column("x", "%").format(0.1234) == "12.3 %"
    assert Column("x", decimals=3).format(2) == "2.000"
    assert Column("x", "px", decimals=0).format(32) == "32 px"
    assert Column("x", "%").format("as it is") == "as it is"
    assert Column("x").format(None) == "-"


def test_names_cannot_break_out_of_a_cell():
    table = Table(["a|b", "<b>"], [["x\ny", "*<i>*"]])
    assert to_markdown(table)[0] == r"| a\|b | &lt;b> |"
    assert "<i>" not in to_html(table)
    assert len(to_markdown(table)) == 3
