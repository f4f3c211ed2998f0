"""A report as one HTML page: styles, script, data and pictures are inside; it requests nothing."""

import datetime
import html
import importlib.resources
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cssl_jax import recipes
from cssl_jax.report import svg
from cssl_jax.report import tables as report_tables
from cssl_jax.report.curves import Chart, charts
from cssl_jax.report.gallery import printable
from cssl_jax.report.html_data import Shown, chart_data, json_for_script, map_data, take_sprites
from cssl_jax.report.run_reader import RunFolder
from cssl_jax.report.tables import Table
from cssl_jax.report.thumbnails import EXACT, Sprite, data_uri
from cssl_jax.version import __version__

# The browser itself enforces what the page promises.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
MOST_CLASSES = 200  # whose confusion matrix is drawn
PAIRS = 8  # confusions that are listed


def page(shown: Sequence[Shown]) -> str:
    """The page of runs, at least one, side by side."""
    runs = [one.run for one in shown]
    drawn = charts(runs)
    sprites = take_sprites(shown)
    data = {
        "maps": [map_data(one, one.gallery) for one in shown if one.gallery],
        "charts": [chart_data(chart) for chart in drawn],
    }
    title = ", ".join(text(run.name) for run in runs)
    sections = [
        ("summary", "Summary", _summary(shown)),
        ("curves", "Curves", curves_html(drawn)),
        ("map", "Feature map", _maps(shown)),
        ("neighbours", "Nearest neighbours", _side_by_side(shown, _neighbour_sheet)),
        ("confusion", "Confusion matrix", _side_by_side(shown, _confusion)),
        ("views", "Views", _side_by_side(shown, _views)),
        ("config", "Config", _config(runs)),
        ("environment", "Environment and command", _environment(shown)),
    ]
    tiles = "".join(_sprite_rule(i, sprite) for i, sprite in enumerate(sprites))
    return document(title, sections, data, tiles)


def document(
    title: str, sections: Sequence[tuple[str, str, str]], data: dict[str, Any], rules: str = ""
) -> str:
    """A whole page.

    Args:
        title: As HTML.
        sections: (anchor, heading, HTML) each; those without HTML are left out.
        data: {"maps": [...], "charts": [...]}, for the script.
        rules: Further CSS.
    """
    there = [(name, head, body) for name, head, body in sections if body]
    links = "".join(f'<li><a href="#{name}">{head}</a></li>' for name, head, _ in there)
    body = "".join(f'<h2 id="{name}">{head}</h2>{content}' for name, head, content in there)
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{title}: report</title><style>{_asset('report.css')}{rules}</style></head><body>\n"
        f'<header><h1>{title}</h1><p class="pale">Report of cssl_jax {__version__}, {now}</p>'
        f'</header><nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>{body}</main>'
        '<footer class="pale">This page holds all that it shows and asks no server for anything.'
        "</footer>\n"
        f'<script type="application/json" id="data">{json_for_script(data)}</script>\n'
        f"<script>{_asset('report.js')}</script></body></html>\n"
    )


def text(value: object) -> str:
    """Any text as HTML, in attributes too."""
    return html.escape(printable(str(value)), quote=True)


def _asset(name: str) -> str:
    return importlib.resources.files("cssl_jax.report").joinpath("assets", name).read_text("utf-8")


# ----------------------------------------------------------------------------------------- pictures


def _sprite_rule(i: int, sprite: Sprite) -> str:
    uri = data_uri(sprite.image, exact=sprite.side <= EXACT and sprite.count <= 2500)
    return f".s{i}{{--cols:{sprite.columns};background-image:url({uri})}}"


# ----------------------------------------------------------------------------------------- sections


def _summary(shown: Sequence[Shown]) -> str:
    cards = []
    for one in shown:
        run = one.run
        items = "".join(
            f'<li class="{verdict.grade}"><b>{text(verdict.title)}</b> '
            f'<span class="pale">{text(verdict.detail)}</span></li>'
            for verdict in run.verdicts
        )
        notes = "".join(f'<p class="note">Not shown: {text(note)}</p>' for note in one.notes)
        facts = (
            f"{text(run.config.data.source)}, {text(run.config.model.encoder)}, "
            f"batch {run.config.train.batch_size:,}, {run.config.train.epochs:,} epochs"
        )
        cards.append(
            f'<section class="card"><h3>{text(run.name)}</h3><p>{text(run.state)}</p>'
            f'<p class="pale">{facts}</p><ul class="verdicts">{items}</ul>{notes}</section>'
        )
    body = f'<div class="runs">{"".join(cards)}</div>'
    runs = [one.run for one in shown]
    results, figures = report_tables.results_table(runs), report_tables.diagnostics_table(runs)
    if results is not None:
        body += f"<h3>Results, on pictures that were not trained on</h3>{table_html(results)}"
    if figures is not None:
        body += f"<details><summary>Diagnostics and their thresholds</summary>{table_html(figures)}"
        body += "</details>"
    return body


def table_html(table: Table, kind: str = "") -> str:
    """A table, its first column as row heads; ``kind`` "words" is for text rather than figures."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def curves_html(drawn: Sequence[Chart]) -> str:
    """Charts side by side; the script finds their values in ``chart_data`` by their order."""
    cards = []
    for number, chart in enumerate(drawn):
        graph = svg.line_chart(chart)
        if not graph:
            continue
        keys = "".join(
            f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><polyline class="'
            f'{one.look} c{one.run % 8}" points="0,4 26,4"/></svg>'
            f"{text(one.label)}</li>"
            for one in chart.series
        )
        note = f"<figcaption>{text(chart.note)}</figcaption>" if chart.note else ""
        cards.append(
            f'<figure class="card map" data-chart="{number}"><h3>{text(chart.title)}</h3>{graph}'
            f'<div class="tip" hidden></div><ul class="key">{keys}</ul>{note}</figure>'
        )
    return f'<div class="grid">{"".join(cards)}</div>' if cards else ""


def _maps(shown: Sequence[Shown]) -> str:
    cards, number = [], 0
    for one in shown:
        if one.gallery is None:
            continue
        gallery = one.gallery
        many = len(gallery.classes) > 8
        note = (
            f"{len(gallery):,} of {gallery.of:,} validation pictures, step {gallery.step}. "
            "Hover or use the arrow keys for a picture, choose one for its neighbours, "
            "hold Ctrl and scroll to zoom, drag to move."
        )
        if many:
            note += " Colours repeat in other shapes: choose a class to single it out."
        cards.append(
            f'<section class="card box">{_head(one, shown)}<div class="panes" data-map="{number}">'
            '<div><div class="bar"></div><div class="map"><canvas tabindex="0" role="img"></canvas>'
            '<div class="tip" hidden></div></div><div class="axes"></div></div>'
            '<div><div class="legend" role="group" aria-label="Classes"></div>'
            f'<div class="picked" aria-live="polite"></div><p class="note">{note}</p></div></div>'
            "</section>"
        )
        number += 1
    return f'<div class="runs">{"".join(cards)}</div>' if cards else ""


def _head(one: Shown, shown: Sequence[Shown]) -> str:
    """The name of a run above its part of a section, where there are several."""
    return f"<h3>{text(one.run.name)}</h3>" if len(shown) > 1 else ""


def _side_by_side(shown: Sequence[Shown], draw: Callable[[Shown], str]) -> str:
    cards = []
    for one in shown:
        if content := draw(one):
            cards.append(f'<section class="card">{_head(one, shown)}{content}</section>')
    return f'<div class="runs">{"".join(cards)}</div>' if cards else ""


def _neighbour_sheet(one: Shown) -> str:
    if one.gallery is None or one.neighbours is None:
        return ""
    gallery, rows = one.gallery, []
    labels, small = gallery.labels, " small" if one.side <= EXACT else ""
    for query in gallery.queries():
        cells = []
        for order, i in enumerate([query, *one.neighbours[query]]):
            name = text(gallery.names[i])
            kind, caption = "", name
            if labels is not None and labels[i] >= 0:
                caption = text(gallery.classes[labels[i]])
                if order and labels[query] >= 0:
                    kind = "same" if labels[i] == labels[query] else "other"
            cells.append(
                f'<figure class="{kind}"><span class="thumb{small} s{one.sprite}" role="img" '
                f'style="--x:{i % one.columns};--y:{i // one.columns}" title="{name}" '
                f'aria-label="{name}, {caption}"></span><figcaption>{caption}</figcaption></figure>'
            )
        rows.append(f'<div class="row" tabindex="0">{"".join(cells)}</div>')
    if labels is None:
        note = "The first picture of a row and its nearest by cosine similarity."
    else:
        note = (
            "The first picture of a row and its nearest by cosine similarity; a whole frame is the "
            "same class, a dashed one another."
        )
    return f'<div class="sheets">{"".join(rows)}</div><p class="note">{note}</p>'


def _confusion(one: Shown) -> str:
    if one.confusion is None or one.gallery is None:
        return ""
    counts, names = one.confusion.counts, list(one.gallery.classes)
    names += [str(i) for i in range(len(names), len(counts))]
    hits = np.trace(counts) / max(counts.sum(), 1)
    body = f"<p>{hits:.1%} on the diagonal.</p>"
    if len(counts) <= MOST_CLASSES:
        body += f'<div class="scroll">{svg.confusion_matrix(counts, names)}</div>'
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, off.shape), strict=True)]
    rows = [[names[i], names[j], str(off[i, j])] for i, j in pairs if off[i, j]]
    if rows:
        table = table_html(Table(["true", "predicted", "times"], rows))
        body += f"<details><summary>What is confused most</summary>{table}</details>"
    return f'{body}<p class="note">{text(one.confusion.origin)}.</p>'


def _views(one: Shown) -> str:
    if one.views is None:
        return ""
    label = "Pictures of the first batch, the two views of each, and what each underwent in words"
    picture = data_uri(one.views, exact=False)
    return f'<img class="sheet" src="{picture}" alt="{label}"><p class="note">{label}.</p>'


def _config(runs: Sequence[RunFolder]) -> str:
    table = report_tables.config_table(runs)
    body = table_html(table, "words") if table.rows else "<p>No field differs.</p>"
    if len(runs) == 1 and not table.rows:
        body = f"<p>This is the recipe {text(table.head[1].removeprefix('recipe '))} as it is.</p>"
    for run in runs:
        content = recipes.to_dict(run.config)
        augment = json.dumps(content.pop("augment"), indent=2)
        rest = json.dumps(content, indent=2)
        body += (
            f"<details><summary>Augmentation of {text(run.name)}</summary>"
            f"<pre>{text(augment)}</pre></details>"
            f"<details><summary>Whole config of {text(run.name)}</summary>"
            f"<pre>{text(rest)}</pre></details>"
        )
    return body


def _environment(shown: Sequence[Shown]) -> str:
    runs = [one.run for one in shown]
    body = ""
    for run in runs:
        speed = report_tables.speed(run)
        body += f"<h3>{text(run.name)}</h3>" + (f"<p>{text(speed)}</p>" if speed else "")
        body += f"<p>The same again:</p><pre>{text(report_tables.repeat_command(run))}</pre>"
    table = report_tables.environment_table(runs, [one.environment for one in shown])
    return body + (table_html(table, "words") if table else "")
