"""Report of runs: one HTML page, the same content as Markdown, and its figures as PNG."""

import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.outputs import check_output, is_stream, write_output, write_png
from cssl_jax.report.figures import gallery as galleries
from cssl_jax.report.figures import plots, projections
from cssl_jax.report.figures.gallery import Gallery
from cssl_jax.report.figures.sheets import SHEETS
from cssl_jax.report.html import page
from cssl_jax.report.html_data import RunContent
from cssl_jax.report.markdown import markdown
from cssl_jax.report.run_reader import RunFolder, open_run

Say = Callable[[str], None]


def write_report(
    runs: Sequence[str | pathlib.Path],
    output: str | pathlib.Path | None = None,
    *,
    images: int = galleries.IMAGES,
    figures: bool = True,
    say: Say = lambda text: None,
) -> pathlib.Path:
    """Writes report.html, and next to it report.md and report_figures/*.png.

    Only the page is written if ``output`` is standard output, a pipe or a device. A run may still
    be training. A section that needs a checkpoint, the data or labels is omitted if these are
    missing, and the report gives the reason.

    Args:
        runs: Run folders, at least one; several runs are shown side by side.
        output: HTML file to write (.html); None is report.html in the run folder for a single run,
            and in the working directory for several.
        images: Maximum number of validation images to embed; 0 omits all content made from images.
        figures: True to write PNG figures as well, if matplotlib is installed.
        say: Receives one line of text per stage.

    Returns:
        Path of the page.

    Raises:
        UserError: A path is no run folder, a run is named twice, ``images`` is out of range, or a
            file cannot be written.
    """
    if not runs:
        raise UserError("name at least one run folder")
    if not 0 <= images <= galleries.MAX_IMAGES:
        raise UserError(f"{images} images; give 0 to {galleries.MAX_IMAGES:,}")
    opened = _check_distinct([open_run(run) for run in runs])
    path = pathlib.Path(output).expanduser() if output else _default_output(opened)
    check_output(path, ".html")
    contents = [collect_content(run, images=images, say=say) for run in opened]
    say("writing the page")
    write_output(path, page(contents))
    if is_stream(path):
        return path
    # Figures come before the Markdown: they may add a note, and the Markdown links to them.
    paths = _draw_figures(contents, path, say) if figures else {}
    text = markdown(
        opened,
        notes=[content.notes for content in contents],
        environments=[content.environment for content in contents],
        figures=paths,
    )
    write_output(path.with_suffix(".md"), text)
    return path


def _default_output(runs: Sequence[RunFolder]) -> pathlib.Path:
    return (runs[0].path if len(runs) == 1 else pathlib.Path()) / "report.html"


def _check_distinct(runs: list[RunFolder]) -> list[RunFolder]:
    """Refuses a run that is named twice, since its two curves would hide each other."""
    paths = [run.path.resolve() for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path} is named twice; name every run once")
    return runs


def collect_content(run: RunFolder, *, images: int, say: Say = lambda text: None) -> RunContent:
    """Computes the content of a run's report; content that cannot be computed becomes a note.

    Args:
        run: Logs and results of the run.
        images: Maximum number of validation images to embed; 0 embeds none.
        say: Receives one line of text per stage.
    """
    content = RunContent(run)
    if not run.steps:
        content.notes.append("curves: nothing is logged yet")

    if images == 0:
        content.notes.append("maps, neighbours, confusion matrix and views: --images is 0")
        return content
    attempt = functools.partial(_attempt, content, say)
    content.views = attempt("views", lambda: galleries.view_sheet(run))
    opened = attempt(
        "maps, neighbours, confusion matrix", lambda: galleries.open_gallery(run, images=images)
    )
    if opened is None:
        return content
    gallery, encoder = opened
    for kind, sheet in SHEETS.items():
        if sheet.applies(encoder):
            image = attempt(kind, functools.partial(sheet.draw, encoder, gallery))
            content.sheets |= {} if image is None else {kind: image}
    if not np.isfinite(gallery.features).all() or len(gallery) < projections.MIN_ROWS:
        content.notes.append(
            f"maps, neighbours: they need {projections.MIN_ROWS} or more validation images, all "
            f"with finite features; {_count_finite(gallery.features)} of {len(gallery)} have them"
        )
        return content
    content.gallery = gallery
    _collect_maps(content, gallery, attempt)
    content.neighbours = attempt("neighbours", gallery.neighbours)
    if gallery.labels is not None:
        content.confusion = attempt(
            "confusion matrix", lambda: galleries.confusion(run, gallery, encoder, images)
        )
    return content


def _attempt(content: RunContent, say: Say, subject: str, compute: Callable[[], Any]) -> Any:
    """Result of ``compute``; None, with a note in ``content``, if its data are missing."""
    say(f"{content.run.name}: {subject}")
    try:
        return compute()
    except galleries.MISSING as error:
        content.notes.append(f"{subject}: {error}")
        return None


def _collect_maps(
    content: RunContent, gallery: Gallery, attempt: Callable[[str, Callable[[], Any]], Any]
) -> None:
    fractions = projections.principal(gallery.features, 2)[1]
    content.variance_fractions = tuple(fractions[:2].tolist())
    for kind in projections.KINDS:
        if kind == "umap" and not projections.available(kind):
            continue  # UMAP is optional: a note on every page without it would be noise
        coordinates = attempt(projections.TITLES[kind], functools.partial(gallery.map, kind))
        if coordinates is not None:
            content.coordinates[kind] = coordinates


def _count_finite(features: np.ndarray) -> int:
    return int(np.isfinite(features).all(axis=1).sum())


def _draw_figures(contents: Sequence[RunContent], path: pathlib.Path, say: Say) -> dict[str, str]:
    """Writes all PNGs. Returns the title of each figure to its path, relative to the report.

    Without matplotlib nothing is written, and the first run has a note about it.
    """
    if not plots.available():
        contents[0].notes.append(
            f"figures as PNG: matplotlib is not installed: {projections.INSTALL}"
        )
        return {}
    say("drawing the figures")
    folder = path.with_name(f"{path.stem}_figures")
    folder.mkdir(exist_ok=True)
    paths: dict[str, str] = {}

    def save(title: str, kind: str, run: RunFolder | None, figure: Any) -> None:
        stem = kind if run is None or len(contents) == 1 else f"{_slug(run.name)}_{kind}"
        write_png(folder / f"{stem}.png", figure)
        suffix = "" if run is None or len(contents) == 1 else f" of {run.name}"
        paths[title + suffix] = f"{folder.name}/{stem}.png"

    if any(content.run.steps for content in contents):
        save("All curves", "curves", None, plots.curves([content.run for content in contents]))
    for content in contents:
        for title, kind, figure in plots.run_figures(content):
            save(title, kind, content.run, figure)
    return paths


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
