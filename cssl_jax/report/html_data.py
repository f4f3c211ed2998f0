"""What the page of a report shows, and the data that its script reads."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from cssl_jax.report import projections, svg
from cssl_jax.report.curves import Chart
from cssl_jax.report.gallery import Confusion, Gallery, printable
from cssl_jax.report.run_reader import RunFolder
from cssl_jax.report.thumbnails import Sprite

PLACES = 9999  # a map's coordinates are whole numbers 0 to this


@dataclasses.dataclass
class Shown:
    """A run as the page shows it; what is None is not there, and ``notes`` say why.

    Attributes:
        run: Of the folder.
        gallery: Pictures and features.
        places: Kind of map to float [n, 2].
        shares: Of the variance, of PCA's two axes.
        neighbours: int [n, k].
        confusion: Of the linear probe.
        views: Sheet of the first batch's views.
        notes: Why something is not there.
        sprite: Which of the page's sprites has the pictures.
        columns: Of that sprite.
        side: Of its thumbnails in pixels.
    """

    run: RunFolder
    gallery: Gallery | None = None
    places: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    shares: tuple[float, float] = (0.0, 0.0)
    neighbours: np.ndarray | None = None
    confusion: Confusion | None = None
    views: PIL.Image.Image | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    sprite: int = -1
    columns: int = 1
    side: int = 1

    @property
    def environment(self) -> dict[str, str]:
        """Of the run, as its checkpoint tells."""
        return self.gallery.environment if self.gallery else {}


def take_sprites(shown: Sequence[Shown]) -> list[Sprite]:
    """One sprite for all runs on the same pictures; notes in each run which it takes."""
    known: dict[str, int] = {}
    sprites: list[Sprite] = []
    for one in shown:
        if one.gallery is None:
            continue
        mark = one.gallery.source.fingerprint()
        if mark not in known:
            known[mark] = len(sprites)
            sprites.append(one.gallery.sprite())
        one.sprite = known[mark]
        one.columns, one.side = sprites[one.sprite].columns, sprites[one.sprite].side
    return sprites


def map_data(one: Shown, gallery: Gallery) -> dict[str, Any]:
    """What the script needs to draw a run's maps and to name its pictures."""
    labels = gallery.labels
    near = one.neighbours
    return {
        "sprite": one.sprite,
        "side": one.side,
        "columns": one.columns,
        "names": gallery.names,
        "classes": gallery.classes,
        "labels": None if labels is None else labels.tolist(),
        "neighbours": [] if near is None else near.ravel().tolist(),
        "k": 0 if near is None else near.shape[1],
        "places": {kind: _places(kind, xy, one.shares) for kind, xy in one.places.items()},
    }


def _places(kind: str, xy: np.ndarray, shares: tuple[float, float]) -> dict[str, Any]:
    low, high = xy.min(axis=0), xy.max(axis=0)
    extent = float((high - low).max()) or 1.0  # one scale for both axes
    whole = np.rint(((xy - (low + high) / 2) / extent + 0.5) * PLACES).astype(int)
    title = projections.TITLES[kind]
    axes = [f"{title} {axis}, no unit" for axis in (1, 2)]
    if kind == "pca":
        axes = [f"component {i + 1}, {share:.1%} of variance" for i, share in enumerate(shares)]
    return {"title": title, "x": axes[0], "y": axes[1], "points": whole.ravel().tolist()}


def chart_data(chart: Chart) -> dict[str, Any]:
    """What the script needs to tell the values under the pointer."""
    xs = [x for one in chart.series for x in one.x]
    series = []
    for one in chart.series:
        points = svg.thinned(one.x, one.y)
        if points:
            x, y = zip(*points, strict=True)
            series.append({"label": printable(one.label), "x": x, "y": y})
    size = {"left": svg.LEFT, "right": svg.RIGHT, "width": svg.WIDTH}
    return {"series": series, "x0": min([0.0, *xs]), "x1": max(xs), **size}


def json_for_script(content: Any) -> str:
    """JSON that no ``</script>`` or ``<!--`` in a name can leave."""
    dense = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return dense.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
