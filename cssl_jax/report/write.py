"""The report of runs: one HTML page, the same as Markdown, and its figures as PNG."""

import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.outputs import check_output, is_stream, write_output, write_png
from cssl_jax.report import gallery as galleries
from cssl_jax.report import plots, projections
from cssl_jax.report.html import page
from cssl_jax.report.html_data import Shown
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
    """Writes report.html, report.md beside it, and report_figures/*.png beside both.

    Where ``output`` is no regular file but standard output, a pipe or a device, the page alone.

    A run may still be training: what needs a checkpoint, the data or labels is left out where there
    are none, and the report says so.

    Args:
        runs: Run folders, at least one; several stand side by side.
        output: File to write (.html); None is report.html in the folder of a single run, in the
            working folder for several.
        images: Validation pictures that are embedded at most; 0 leaves out all that needs them.
        figures: Draw the PNGs too, where matplotlib is installed.
        say: Is told what is being done.

    Returns:
        The path of the page.

    Raises:
        UserError: No run folder, or a file that cannot be written.
    """
    if not runs:
        raise UserError("name at least one run folder")
    if not 0 <= images <= galleries.MOST_IMAGES:
        raise UserError(f"{images} images; give 0 to {galleries.MOST_IMAGES:,}")
    opened = _distinct([open_run(run) for run in runs])
    path = pathlib.Path(output).expanduser() if output else _default(opened)
    check_output(path, ".html")
    shown = [show(run, images=images, say=say) for run in opened]
    say("writing the page")
    write_output(path, page(shown))
    if is_stream(path):
        return path
    drawn = _draw_figures(shown, path, say) if figures else {}
    words = markdown(
        opened,
        notes=[one.notes for one in shown],
        environments=[one.environment for one in shown],
        figures=drawn,
    )
    write_output(path.with_suffix(".md"), words)
    return path


def _default(runs: Sequence[RunFolder]) -> pathlib.Path:
    return (runs[0].path if len(runs) == 1 else pathlib.Path()) / "report.html"


def _distinct(runs: list[RunFolder]) -> list[RunFolder]:
    """Refuses a run named twice: its curves would hide each other."""
    paths = [run.path.resolve() for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path} is named twice; name every run once")
    return runs


def show(run: RunFolder, *, images: int, say: Say = lambda text: None) -> Shown:
    """Collects what the page shows of a run; what fails for want of something becomes a note."""
    one = Shown(run)
    if not run.steps:
        one.notes.append("curves: nothing is logged yet")

    def attempt(what: str, act: Callable[[], Any]) -> Any:
        say(f"{run.name}: {what}")
        try:
            return act()
        except galleries.MISSING as error:
            one.notes.append(f"{what}: {error}")
            return None

    if images == 0:
        one.notes.append("maps, neighbours, confusion matrix and views: --images is 0")
        return one
    one.views = attempt("views", lambda: galleries.view_sheet(run))
    opened = attempt(
        "maps, neighbours, confusion matrix", lambda: galleries.open_gallery(run, images=images)
    )
    if opened is None:
        return one
    gallery, encoder = opened
    if not np.isfinite(gallery.features).all() or len(gallery) < projections.LEAST:
        one.notes.append(
            f"maps, neighbours: {len(gallery)} validation pictures whose features are not all "
            f"finite, or fewer than {projections.LEAST} of them"
        )
        return one
    one.gallery = gallery
    one.shares = tuple(projections.principal(gallery.features, 2)[1][:2].tolist())
    for kind in projections.KINDS:
        if kind == "umap" and not projections.available(kind):
            continue  # an extra that nobody asked for
        places = attempt(projections.TITLES[kind], functools.partial(gallery.map, kind))
        if places is not None:
            one.places[kind] = places
    one.neighbours = attempt("neighbours", gallery.neighbours)
    if gallery.labels is not None:
        one.confusion = attempt(
            "confusion matrix", lambda: galleries.confusion(run, gallery, encoder, images)
        )
    return one


def _draw_figures(shown: Sequence[Shown], path: pathlib.Path, say: Say) -> dict[str, str]:
    """Title to relative path of every PNG; none, and a note, where matplotlib is missing."""
    if not plots.available():
        shown[0].notes.append(f"figures as PNG: matplotlib is not installed: {projections.INSTALL}")
        return {}
    say("drawing the figures")
    folder = path.with_name(f"{path.stem}_figures")
    folder.mkdir(exist_ok=True)
    drawn: dict[str, str] = {}

    def save(title: str, kind: str, run: RunFolder | None, figure: Any) -> None:
        stem = kind if run is None or len(shown) == 1 else f"{_slug(run.name)}_{kind}"
        write_png(folder / f"{stem}.png", figure)
        suffix = "" if run is None or len(shown) == 1 else f" of {run.name}"
        drawn[title + suffix] = f"{folder.name}/{stem}.png"

    if any(one.run.steps for one in shown):
        save("All curves", "curves", None, plots.curves([one.run for one in shown]))
    for one in shown:
        for title, kind, figure in plots.of_run(one):
            save(title, kind, one.run, figure)
    return drawn


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
