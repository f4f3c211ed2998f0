"""Report of a sweep: one HTML page, the same content as Markdown, and its figures as PNG."""

import json
import pathlib
from collections.abc import Callable

import PIL.Image

from cssl_jax.outputs import check_output, is_stream, write_output, write_png
from cssl_jax.report import markdown as md
from cssl_jax.report.escape import one_line, plain, text
from cssl_jax.report.figures import plots, svg
from cssl_jax.report.html import document
from cssl_jax.report.table import to_html, to_markdown
from cssl_jax.report.tables import quoted
from cssl_jax.sweeps import charts, sweep_results
from cssl_jax.sweeps.sweep_results import Sweep

_IMPORTANCE = (
    "Fraction of the variance of the score that each parameter explains (fANOVA, Hutter et al. "
    "2014), over complete trials. The estimate is unreliable for few trials."
)
_PARALLEL = (
    "Each line is a trial. It crosses the axes of the parameters and ends at the trial's score on "
    "the selection examples. A stronger line is a better score. The score of a pruned trial is its "
    "best score before pruning."
)
_TITLES = {
    "importance": "Importance of parameters",
    "parallel": "Parallel coordinates",
    "curves": "Trials over epochs",
}


def write_report(
    folder: str | pathlib.Path, output: str | pathlib.Path | None = None, *, figures: bool = True
) -> pathlib.Path:
    """Writes report.html, and next to it report.md and report_figures/*.png.

    Only the page is written if ``output`` is standard output, a pipe or a device. Everything is
    read from the sweep's tables: neither Optuna nor the data are needed. The sweep may still be
    running.

    Args:
        folder: Folder of the sweep.
        output: HTML file to write (.html); None is report.html in the sweep's folder.
        figures: True to write PNG figures as well, if matplotlib is installed.

    Returns:
        Path of the page.

    Raises:
        UserError: The folder holds no sweep, or a file cannot be written.
    """
    sweep = sweep_results.read(folder)
    path = pathlib.Path(output).expanduser() if output else sweep.path / "report.html"
    check_output(path, ".html")
    write_output(path, page(sweep))
    if is_stream(path):
        return path
    drawn = _draw_figures(sweep, path) if figures and plots.available() else {}
    write_output(path.with_suffix(".md"), markdown(sweep, drawn))
    return path


def page(sweep: Sweep) -> str:
    """The HTML page of a sweep."""
    parallel = charts.parallel_svg(sweep)
    importance = charts.importance_svg(sweep.importance) if sweep.importance else ""
    sections = [
        ("summary", "Summary", _summary(sweep)),
        ("trials", "Trials", to_html(sweep.table(), "trials") if sweep.trials else ""),
        ("importance", _TITLES["importance"], _figure(importance, _IMPORTANCE)),
        ("parallel", _TITLES["parallel"], _figure(parallel, _PARALLEL, _legend(sweep))),
        ("curves", _TITLES["curves"], _curves(sweep)),
        ("space", "Space", f"<pre>{text_lines(sweep.space)}</pre>"),
        ("config", "Config", _config(sweep)),
        ("command", "Command", f"<pre>{text(command(sweep))}</pre>"),
    ]
    return document(text(sweep.path.name), sections, {"maps": [], "charts": []})


def command(sweep: Sweep) -> str:
    """Command that trains the best trial again, or resumes a sweep without a complete trial."""
    if sweep.best is None:
        return f"cssl-jax sweep {sweep.recipe} --workdir {quoted(str(sweep.path))} ..."
    config = sweep.path / sweep.best.run / "config.json"
    return f"cssl-jax pretrain {quoted(str(config))} --workdir NEW_RUN"


def text_lines(code: str) -> str:
    """Text of several lines as escaped HTML."""
    return "\n".join(text(line) for line in code.splitlines())


def _summary(sweep: Sweep) -> str:
    items = "".join(f"<p>{text(line)}.</p>" for line in sweep.summary)
    settings = ", ".join(f"{name} {value}" for name, value in sweep.settings.items())
    return f'<section class="card">{items}<p class="pale">{text(settings)}</p></section>'


def _figure(graph: str, note: str, legend: str = "") -> str:
    if not graph:
        return ""
    return (
        f'<figure class="card"><div class="scroll">{graph}</div>{legend}'
        f"<figcaption>{text(note)}</figcaption></figure>"
    )


def _legend(sweep: Sweep) -> str:
    drawn_kinds = {line.kind for line in charts.lines(sweep)[1]}
    entries = "".join(
        f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><polyline class="{classes}" '
        f'points="0,4 26,4"/></svg>{kind}</li>'
        for kind, (_, classes, _) in charts.KINDS.items()
        if kind in drawn_kinds
    )
    return f'<ul class="key">{entries}</ul>'


def _curves(sweep: Sweep) -> str:
    chart = charts.curves(sweep)
    if chart is None:
        return ""
    note = f"{chart.title} on the selection examples, the metric by which trials are pruned."
    figure = _figure(svg.line_chart(chart), note, _legend(sweep))
    return f'<div style="max-width:600px">{figure}</div>'


def _config(sweep: Sweep) -> str:
    content = text_lines(json.dumps(sweep.config, indent=2))
    return f"<details><summary>Base config of all trials</summary><pre>{content}</pre></details>"


def markdown(sweep: Sweep, figures: dict[str, str]) -> str:
    """The report of a sweep as Markdown.

    Args:
        sweep: Sweep to report.
        figures: Figure kind (key of ``_TITLES``) to the PNG's path relative to the report.
    """
    lines = [f"# {plain(sweep.path.name)}", "", md.date(), ""]
    lines += [f"- {plain(line)}" for line in sweep.summary]
    purpose = "trains the best trial again" if sweep.best else "resumes the sweep"
    lines += ["", f"Command that {purpose}:", "", f"    {one_line(command(sweep))}", ""]
    if sweep.trials:
        lines += ["## Trials", "", *to_markdown(sweep.table()), ""]
    if sweep.importance:
        items = [f"{plain(name)} {fraction:.0%}" for name, fraction in sweep.importance.items()]
        lines += [f"## {_TITLES['importance']}", "", f"{', '.join(items)}. {_IMPORTANCE}", ""]
    for kind, path in figures.items():
        if kind != "importance":
            lines += [f"## {_TITLES[kind]}", "", *([_PARALLEL, ""] if kind == "parallel" else [])]
        lines += [f"![{_TITLES[kind]}]({md.link(path)})", ""]
    lines += ["## Space", "", *(f"    {line}" for line in sweep.space.splitlines())]
    return "\n".join(lines).rstrip() + "\n"


def _draw_figures(sweep: Sweep, path: pathlib.Path) -> dict[str, str]:
    """Writes the PNGs. Returns the figure kind to path, relative to the report."""
    draw: dict[str, Callable[[], PIL.Image.Image]] = {}
    if sweep.importance:
        draw["importance"] = lambda: charts.importance_png(sweep.importance)
    if charts.lines(sweep)[1]:
        draw |= {
            "parallel": lambda: charts.parallel_png(sweep),
            "curves": lambda: charts.curves_png(sweep),
        }
    folder = path.with_name(f"{path.stem}_figures")
    if draw:
        folder.mkdir(exist_ok=True)
    for kind, make in draw.items():
        write_png(folder / f"{kind}.png", make())
    return {kind: f"{folder.name}/{kind}.png" for kind in draw}
