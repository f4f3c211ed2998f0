"""The report of a sweep: one HTML page, the same as Markdown, and its figures as PNG."""

import json
import pathlib
from collections.abc import Callable

import PIL.Image

from cssl_jax.outputs import check_output, is_stream, write_output, write_png
from cssl_jax.report import markdown as words
from cssl_jax.report import plots, svg
from cssl_jax.report.html import document, table_html, text
from cssl_jax.report.tables import quoted
from cssl_jax.sweeps import charts
from cssl_jax.sweeps import results as sweep_results
from cssl_jax.sweeps.results import Sweep

_IMPORTANCE = (
    "Share of each parameter in the variance of the score (fANOVA, Hutter et al. 2014), over "
    "complete trials; of few trials it says little."
)
_PARALLEL = (
    "A line is a trial, over the parameters to its score on the images that select. Stronger ink "
    "is a better score; of a pruned trial it is the best until then."
)
_TITLES = {
    "importance": "Importance of parameters",
    "parallel": "Parallel coordinates",
    "curves": "Trials over epochs",
}


def write_report(
    folder: str | pathlib.Path, output: str | pathlib.Path | None = None, *, figures: bool = True
) -> pathlib.Path:
    """Writes report.html, report.md beside it, and report_figures/*.png beside both.

    Where ``output`` is no regular file but standard output, a pipe or a device, the page alone.

    Needs neither Optuna nor the data: all is read from the sweep's tables. A sweep may still be
    running.

    Args:
        folder: Of the sweep.
        output: File to write (.html); None is report.html in the folder.
        figures: Draw the PNGs too, where matplotlib is installed.

    Returns:
        The path of the page.

    Raises:
        UserError: No sweep, or a file that cannot be written.
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
    """The page of a sweep."""
    parallel = charts.parallel_svg(sweep)
    importance = charts.importance_svg(sweep.importance) if sweep.importance else ""
    sections = [
        ("summary", "Summary", _summary(sweep)),
        ("trials", "Trials", table_html(sweep.table(), "trials") if sweep.trials else ""),
        ("importance", _TITLES["importance"], _figure(importance, _IMPORTANCE)),
        ("parallel", _TITLES["parallel"], _figure(parallel, _PARALLEL, _key(sweep))),
        ("curves", _TITLES["curves"], _curves(sweep)),
        ("space", "Space", f"<pre>{text_lines(sweep.space)}</pre>"),
        ("config", "Config", _config(sweep)),
        ("command", "Command", f"<pre>{text(command(sweep))}</pre>"),
    ]
    return document(text(sweep.path.name), sections, {"maps": [], "charts": []})


def command(sweep: Sweep) -> str:
    """What trains the best trial again, or goes on with a sweep that has none."""
    if sweep.best is None:
        return f"cssl-jax sweep {sweep.recipe} --workdir {quoted(str(sweep.path))} ..."
    config = sweep.path / sweep.best.run / "config.json"
    return f"cssl-jax pretrain {quoted(str(config))} --workdir NEW_RUN"


def text_lines(code: str) -> str:
    """Text of several lines as HTML."""
    return "\n".join(text(line) for line in code.splitlines())


def _summary(sweep: Sweep) -> str:
    items = "".join(f"<p>{text(line)}.</p>" for line in sweep.words)
    settings = ", ".join(f"{name} {value}" for name, value in sweep.settings.items())
    return f'<section class="card">{items}<p class="pale">{text(settings)}</p></section>'


def _figure(graph: str, note: str, key: str = "") -> str:
    if not graph:
        return ""
    return (
        f'<figure class="card"><div class="scroll">{graph}</div>{key}'
        f"<figcaption>{text(note)}</figcaption></figure>"
    )


def _key(sweep: Sweep) -> str:
    there = {line.kind for line in charts.lines(sweep)[1]}
    keys = "".join(
        f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><polyline class="{look}" '
        f'points="0,4 26,4"/></svg>{kind}</li>'
        for kind, (_, look, _) in charts.KINDS.items()
        if kind in there
    )
    return f'<ul class="key">{keys}</ul>'


def _curves(sweep: Sweep) -> str:
    chart = charts.curves(sweep)
    if chart is None:
        return ""
    note = f"{chart.title} on the images that select; trials are pruned by it."
    figure = _figure(svg.line_chart(chart), note, _key(sweep))
    return f'<div style="max-width:600px">{figure}</div>'


def _config(sweep: Sweep) -> str:
    whole = text_lines(json.dumps(sweep.config, indent=2))
    return f"<details><summary>What all trials have in common</summary><pre>{whole}</pre></details>"


def markdown(sweep: Sweep, figures: dict[str, str]) -> str:
    """The report as Markdown; ``figures``: name to relative path of every picture."""
    lines = [f"# {words.plain(sweep.path.name)}", "", words.date(), ""]
    lines += [f"- {words.plain(line)}" for line in sweep.words]
    lines += ["", "Train the best again:", "", f"    {words.one_line(command(sweep))}", ""]
    if sweep.trials:
        lines += ["## Trials", "", *words.table_lines(sweep.table()), ""]
    if sweep.importance:
        shares = [f"{words.plain(name)} {share:.0%}" for name, share in sweep.importance.items()]
        lines += [f"## {_TITLES['importance']}", "", f"{', '.join(shares)}. {_IMPORTANCE}", ""]
    for kind, path in figures.items():
        if kind != "importance":
            lines += [f"## {_TITLES[kind]}", "", *([_PARALLEL, ""] if kind == "parallel" else [])]
        lines += [f"![{_TITLES[kind]}]({words.link(path)})", ""]
    lines += ["## Space", "", *(f"    {line}" for line in sweep.space.splitlines())]
    return "\n".join(lines).rstrip() + "\n"


def _draw_figures(sweep: Sweep, path: pathlib.Path) -> dict[str, str]:
    """Name to relative path of every PNG."""
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
