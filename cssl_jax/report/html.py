"""A report as one HTML page with embedded styles, script, data and images; it loads no resource."""

import datetime
import functools
import importlib.resources
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image

from cssl_jax import recipes
from cssl_jax.modalities.base import EXACT_SIDE
from cssl_jax.report import tables as report_tables
from cssl_jax.report.escape import text
from cssl_jax.report.figures import svg
from cssl_jax.report.figures.curves import Chart, charts
from cssl_jax.report.figures.sheets import SHEETS
from cssl_jax.report.figures.thumbnails import Sprite, data_uri
from cssl_jax.report.html_data import (
    RunContent,
    assign_sprites,
    chart_data,
    json_for_script,
    map_data,
)
from cssl_jax.report.run_reader import RunFolder
from cssl_jax.report.table import Table, to_html
from cssl_jax.version import __version__

# The browser enforces that the page loads nothing: the policy blocks all network requests.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
MAX_CLASSES = 200  # maximum number of classes for which the confusion matrix is drawn
PAIRS = 8  # number of most frequent confusions in the list


def page(contents: Sequence[RunContent]) -> str:
    """Builds the HTML page of runs, at least one, which are shown side by side."""
    runs = [content.run for content in contents]
    drawn = charts(runs)
    sprites = assign_sprites(contents)
    data = {
        "maps": [map_data(content, content.gallery) for content in contents if content.gallery],
        "charts": [chart_data(chart) for chart in drawn],
    }
    title = ", ".join(text(run.name) for run in runs)
    sections = [
        ("summary", "Summary", _summary(contents)),
        ("curves", "Curves", curves_html(drawn)),
        ("map", "Feature map", _maps(contents)),
        ("neighbours", "Nearest neighbours", _side_by_side(contents, _neighbour_sheet)),
        ("confusion", "Confusion matrix", _side_by_side(contents, _confusion)),
        ("views", "Views", _side_by_side(contents, _views)),
        *(
            (kind, sheet.title, _side_by_side(contents, functools.partial(_own_sheet, kind)))
            for kind, sheet in SHEETS.items()
        ),
        ("config", "Config", _config(runs)),
        ("environment", "Environment and command", _environment(contents)),
    ]
    sprite_rules = "".join(_sprite_rule(i, sprite) for i, sprite in enumerate(sprites))
    return document(title, sections, data, sprite_rules)


def document(
    title: str, sections: Sequence[tuple[str, str, str]], data: dict[str, Any], rules: str = ""
) -> str:
    """Builds a complete HTML document.

    Args:
        title: Title as HTML.
        sections: Tuples (anchor, heading, HTML); a section with empty HTML is omitted.
        data: JSON data {"maps": [...], "charts": [...]} for the script.
        rules: CSS rules in addition to report.css.
    """
    present = [(name, head, content) for name, head, content in sections if content]
    links = "".join(f'<li><a href="#{name}">{head}</a></li>' for name, head, _ in present)
    body = "".join(f'<h2 id="{name}">{head}</h2>{content}' for name, head, content in present)
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{title}: report</title><style>{_asset('report.css')}{rules}</style></head><body>\n"
        f'<header><h1>{title}</h1><p class="pale">Report of cssl_jax {__version__}, {now}</p>'
        f'</header><nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>{body}</main>'
        '<footer class="pale">This page contains all its data and makes no network request.'
        "</footer>\n"
        f'<script type="application/json" id="data">{json_for_script(data)}</script>\n'
        f"<script>{_asset('report.js')}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return importlib.resources.files("cssl_jax.report").joinpath("assets", name).read_text("utf-8")


# ------------------------------------------------------------------------------------------- images


def _sprite_rule(i: int, sprite: Sprite) -> str:
    uri = data_uri(sprite.image, exact=sprite.side <= EXACT_SIDE and sprite.count <= 2500)
    return f".s{i}{{--cols:{sprite.columns};background-image:url({uri})}}"


# ----------------------------------------------------------------------------------------- sections


def _summary(contents: Sequence[RunContent]) -> str:
    cards = []
    for content in contents:
        run = content.run
        items = "".join(
            f'<li class="{verdict.grade}"><b>{text(verdict.title)}</b> '
            f'<span class="pale">{text(verdict.detail)}</span></li>'
            for verdict in run.verdicts
        )
        notes = "".join(f'<p class="note">Not shown: {text(note)}</p>' for note in content.notes)
        facts = (
            f"{text(run.config.data.source)}, {text(run.config.model.encoder)}, "
            f"batch {run.config.train.batch_size:,}, {run.config.train.epochs:,} epochs"
        )
        cards.append(
            f'<section class="card"><h3>{text(run.name)}</h3><p>{text(run.state)}</p>'
            f'<p class="pale">{facts}</p><ul class="verdicts">{items}</ul>{notes}</section>'
        )
    body = f'<div class="runs">{"".join(cards)}</div>'
    runs = [content.run for content in contents]
    if results := report_tables.encoder_tables(runs):
        body += "<h3>Results outside the training split</h3>"
        body += "".join(map(to_html, results))
    diagnostics = report_tables.diagnostics_table(runs)
    if diagnostics is not None:
        body += "<details><summary>Diagnostics and their thresholds</summary>"
        body += f"{to_html(diagnostics)}</details>"
    return body


def curves_html(drawn: Sequence[Chart]) -> str:
    """Charts side by side; each chart's number is the index of its values in ``chart_data``."""
    cards = []
    for number, chart in enumerate(drawn):
        graph = svg.line_chart(chart)
        if not graph:
            continue
        legend = "".join(
            f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><polyline class="'
            f'{series.look} c{series.run % 8}" points="0,4 26,4"/></svg>'
            f"{text(series.label)}</li>"
            for series in chart.series
        )
        note = f"<figcaption>{text(chart.note)}</figcaption>" if chart.note else ""
        cards.append(
            f'<figure class="card map" data-chart="{number}"><h3>{text(chart.title)}</h3>{graph}'
            f'<div class="tip" hidden></div><ul class="key">{legend}</ul>{note}</figure>'
        )
    return f'<div class="grid">{"".join(cards)}</div>' if cards else ""


def _maps(contents: Sequence[RunContent]) -> str:
    cards, number = [], 0
    for content in contents:
        if content.gallery is None:
            continue
        gallery = content.gallery
        note = (
            f"{len(gallery):,} of {gallery.total:,} validation examples, step {gallery.step}. "
            "Hover over a point or use the arrow keys to see an example. Click a point to see its "
            "neighbours. Hold Ctrl and scroll to zoom, drag to move."
        )
        if len(gallery.classes) > 8:  # the palette has 8 colours
            note += " Colours repeat with other shapes: click a class to show it alone."
        cards.append(
            f'<section class="card box">{_head(content, contents)}'
            f'<div class="panes" data-map="{number}"><div><div class="bar"></div>'
            '<div class="map"><canvas tabindex="0" role="img"></canvas>'
            '<div class="tip" hidden></div></div><div class="axes"></div></div>'
            '<div><div class="legend" role="group" aria-label="Classes"></div>'
            f'<div class="picked" aria-live="polite"></div><p class="note">{note}</p></div></div>'
            "</section>"
        )
        number += 1
    return f'<div class="runs">{"".join(cards)}</div>' if cards else ""


def _head(content: RunContent, contents: Sequence[RunContent]) -> str:
    """Heading with the run's name; "" on a page with a single run."""
    return f"<h3>{text(content.run.name)}</h3>" if len(contents) > 1 else ""


def _side_by_side(contents: Sequence[RunContent], draw: Callable[[RunContent], str]) -> str:
    """Cards with the result of ``draw`` per run; runs with an empty result are skipped."""
    cards = [
        f'<section class="card">{_head(content, contents)}{body}</section>'
        for content in contents
        if (body := draw(content))
    ]
    return f'<div class="runs">{"".join(cards)}</div>' if cards else ""


def _neighbour_sheet(content: RunContent) -> str:
    if content.gallery is None or content.neighbours is None:
        return ""
    gallery, rows = content.gallery, []
    labels, small = gallery.labels, " small" if content.side <= EXACT_SIDE else ""
    columns, sprite = content.columns, content.sprite
    for query in gallery.queries():
        cells = []
        for order, i in enumerate([query, *content.neighbours[query]]):
            name = text(gallery.names[i])
            kind, caption = "", name
            if labels is not None and labels[i] >= 0:
                caption = text(gallery.classes[labels[i]])
                if order and labels[query] >= 0:
                    kind = "same" if labels[i] == labels[query] else "other"
            cells.append(
                f'<figure class="{kind}"><span class="thumb{small} s{sprite}" role="img" '
                f'style="--x:{i % columns};--y:{i // columns}" title="{name}" '
                f'aria-label="{name}, {caption}"></span><figcaption>{caption}</figcaption></figure>'
            )
        rows.append(f'<div class="row" tabindex="0">{"".join(cells)}</div>')
    note = (
        f"The first {gallery.modality.one} of each row is the query, the others are its nearest by "
        "cosine similarity."
    )
    if labels is not None:
        note += " A solid frame marks the same class, a dashed frame another class."
    return f'<div class="sheets">{"".join(rows)}</div><p class="note">{note}</p>'


def _confusion(content: RunContent) -> str:
    if content.confusion is None or content.gallery is None:
        return ""
    counts, names = content.confusion.counts, list(content.gallery.classes)
    names += [str(i) for i in range(len(names), len(counts))]
    hits = np.trace(counts) / max(counts.sum(), 1)
    body = f"<p>{hits:.1%} on the diagonal.</p>"
    if len(counts) <= MAX_CLASSES:
        body += f'<div class="scroll">{svg.confusion_matrix(counts, names)}</div>'
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, off.shape), strict=True)]
    rows = [[names[i], names[j], str(off[i, j])] for i, j in pairs if off[i, j]]
    if rows:
        table = to_html(Table(["true class", "predicted class", "examples"], rows))
        body += f"<details><summary>Most frequent confusions</summary>{table}</details>"
    return f'{body}<p class="note">{text(content.confusion.origin)}.</p>'


def _views(content: RunContent) -> str:
    if content.views is None:
        return ""
    label = "Images of the first batch, their views, and a description of the augmentations"
    return _sheet(content.views, label)


def _own_sheet(kind: str, content: RunContent) -> str:
    image = content.sheets.get(kind)
    return "" if image is None else _sheet(image, SHEETS[kind].label)


def _sheet(image: PIL.Image.Image, label: str) -> str:
    uri = data_uri(image, exact=False)
    return f'<img class="sheet" src="{uri}" alt="{label}"><p class="note">{label}.</p>'


def _config(runs: Sequence[RunFolder]) -> str:
    table = report_tables.config_table(runs)
    body = to_html(table, "words") if table.rows else "<p>No field differs.</p>"
    if len(runs) == 1 and not table.rows:
        recipe = text(table.titles[1].removeprefix("recipe "))
        body = f"<p>The config is identical to the recipe {recipe}.</p>"
    for run in runs:
        config = recipes.to_dict(run.config)
        augment = json.dumps(config.pop("augment"), indent=2)
        rest = json.dumps(config, indent=2)
        body += (
            f"<details><summary>Augmentation of {text(run.name)}</summary>"
            f"<pre>{text(augment)}</pre></details>"
            f"<details><summary>Config of {text(run.name)} without augmentation</summary>"
            f"<pre>{text(rest)}</pre></details>"
        )
    return body


def _environment(contents: Sequence[RunContent]) -> str:
    runs = [content.run for content in contents]
    body = ""
    for run in runs:
        speed = report_tables.speed(run)
        body += f"<h3>{text(run.name)}</h3>" + (f"<p>{text(speed)}</p>" if speed else "")
        command = text(report_tables.repeat_command(run))
        body += f"<p>Command that repeats the run:</p><pre>{command}</pre>"
    table = report_tables.environment_table(runs, [content.environment for content in contents])
    return body + (to_html(table, "words") if table else "")
