"""Content of a report per run, and its JSON data for the page's script."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from cssl_jax.report.escape import printable
from cssl_jax.report.figures import projections, svg
from cssl_jax.report.figures.curves import Chart
from cssl_jax.report.figures.gallery import Confusion, Gallery
from cssl_jax.report.figures.thumbnails import Sprite
from cssl_jax.report.run_reader import RunFolder

MAX_COORDINATE = 9999  # coordinates of a map are integers from 0 to this value


@dataclasses.dataclass
class RunContent:
    """Content of a report for one run. Missing content is None, and ``notes`` give the reason.

    Attributes:
        run: Logs and results of the run.
        gallery: Validation images and their features.
        coordinates: Kind of map to coordinates, float [n, 2].
        variance_fractions: Fraction of the variance on each of the two PCA axes.
        neighbours: Indices of the k nearest images per image, int [n, k].
        confusion: Confusion matrix of the linear probe.
        views: Sheet of the first batch's images and views.
        sheets: Further sheets of images by kind, see ``sheets.SHEETS``.
        notes: Reasons for missing content, one sentence each.
        sprite: Index of the page's sprite that has the thumbnails; -1 before ``assign_sprites``.
        columns: Thumbnails per row of the sprite.
        side: Side of a thumbnail in pixels.
    """

    run: RunFolder
    gallery: Gallery | None = None
    coordinates: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    variance_fractions: tuple[float, float] = (0.0, 0.0)
    neighbours: np.ndarray | None = None
    confusion: Confusion | None = None
    views: PIL.Image.Image | None = None
    sheets: dict[str, PIL.Image.Image] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    sprite: int = -1
    columns: int = 1
    side: int = 1

    @property
    def environment(self) -> dict[str, str]:
        """Machine and package versions of the run from its checkpoint; empty without one."""
        return self.gallery.environment if self.gallery else {}


def assign_sprites(contents: Sequence[RunContent]) -> list[Sprite]:
    """Builds the sprites of a page. Runs with the same images share one sprite.

    Sets ``sprite``, ``columns`` and ``side`` of every content that has a gallery.
    """
    index_of: dict[str, int] = {}
    sprites: list[Sprite] = []
    for content in contents:
        if content.gallery is None:
            continue
        fingerprint = content.gallery.source.fingerprint()
        if fingerprint not in index_of:
            index_of[fingerprint] = len(sprites)
            sprites.append(content.gallery.sprite())
        content.sprite = index_of[fingerprint]
        sprite = sprites[content.sprite]
        content.columns, content.side = sprite.columns, sprite.side
    return sprites


def map_data(content: RunContent, gallery: Gallery) -> dict[str, Any]:
    """JSON data from which the script draws a run's maps and names its images."""
    labels = gallery.labels
    neighbours = content.neighbours
    return {
        "sprite": content.sprite,
        "side": content.side,
        "columns": content.columns,
        "names": gallery.names,
        "noun": gallery.modality.noun,
        "one": gallery.modality.one,
        "classes": gallery.classes,
        "labels": None if labels is None else labels.tolist(),
        "neighbours": [] if neighbours is None else neighbours.ravel().tolist(),
        "k": 0 if neighbours is None else neighbours.shape[1],
        "places": {
            kind: _map_points(kind, xy, content.variance_fractions)
            for kind, xy in content.coordinates.items()
        },
    }


def _map_points(kind: str, xy: np.ndarray, fractions: tuple[float, float]) -> dict[str, Any]:
    low, high = xy.min(axis=0), xy.max(axis=0)
    extent = float((high - low).max()) or 1.0  # the same scale for both axes keeps distances
    grid = np.rint(((xy - (low + high) / 2) / extent + 0.5) * MAX_COORDINATE).astype(int)
    title = projections.TITLES[kind]
    axes = [f"{title} {axis}, no unit" for axis in (1, 2)]
    if kind == "pca":
        axes = [f"component {i + 1}, {part:.1%} of variance" for i, part in enumerate(fractions)]
    return {"title": title, "x": axes[0], "y": axes[1], "points": grid.ravel().tolist()}


def chart_data(chart: Chart) -> dict[str, Any]:
    """JSON data from which the script shows the values under the pointer."""
    xs = [x for series in chart.series for x in series.x]
    lines = []
    for series in chart.series:
        points = svg.thin(series.x, series.y)
        if points:
            x, y = zip(*points, strict=True)
            lines.append({"label": printable(series.label), "x": x, "y": y})
    size = {"left": svg.LEFT, "right": svg.RIGHT, "width": svg.WIDTH}
    return {"series": lines, "x0": min([0.0, *xs]), "x1": max(xs), **size}


def json_for_script(content: Any) -> str:
    """JSON text that is safe inside <script>: no name can close the element or open a comment."""
    dense = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return dense.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
