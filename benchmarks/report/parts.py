"""The parts of a report, timed within one process; features of known groups for the map."""

import argparse
import time

import numpy as np
from measuring import process
from measuring.report import cpu_environment

WIDTH, GROUPS = 512, 10


def run(options: argparse.Namespace) -> dict:
    """Seconds of each part at ``options.images`` features of width 512."""
    found = process.call(
        "report.parts.measure",
        timeout=options.timeout,
        environment=cpu_environment(),
        rows=options.images,
        side=options.side,
    )
    return {"width": WIDTH, "parts": found}


def measure(rows: int, side: int) -> dict:
    """Seconds by part, with the t-SNE of each package that is installed."""
    import importlib.util

    from cssl_jax.data.sources.base import ArraySource
    from cssl_jax.evaluate.protocols.knn import nearest
    from cssl_jax.report.figures import projections, thumbnails
    from report.made import made_images

    rng = np.random.default_rng(0)
    labels = rng.integers(0, GROUPS, rows)
    centres = rng.normal(size=(GROUPS, WIDTH))
    features = (0.35 * centres[labels] + rng.normal(size=(rows, WIDTH))).astype(np.float32)
    images, _ = made_images(rows, side, 0)
    seconds: dict[str, float] = {}

    def clock(name, act):
        start = time.perf_counter()
        result = act()
        seconds[name] = time.perf_counter() - start
        return result

    clock("pca", lambda: projections.project(features, "pca"))
    clock("neighbours", lambda: nearest(features, 8))
    sprite = clock("thumbnails", lambda: thumbnails.make_sprite(ArraySource("made", images)))
    clock("encoding", lambda: thumbnails.data_uri(sprite.image, exact=False))
    find, purity = importlib.util.find_spec, {}
    for package, hidden in (("openTSNE", ""), ("scikit-learn", "openTSNE")):
        if find("openTSNE" if not hidden else "sklearn") is None:
            continue
        importlib.util.find_spec = lambda name, hidden=hidden: (
            None if name == hidden else find(name)
        )
        places = clock(f"t-SNE by {package}", lambda: projections.project(features, "tsne"))
        near = nearest_plane(places)
        purity[package] = float(np.mean(labels[near] == labels[:, None]))
    importlib.util.find_spec = find
    return {"seconds": seconds, "purity_of_10_neighbours_on_the_map": purity}


def nearest_plane(places: np.ndarray) -> np.ndarray:
    """The 10 nearest of each place, by Euclidean distance: int [N, 10]."""
    from scipy.spatial import cKDTree

    return cKDTree(places).query(places, 11)[1][:, 1:]


def table(section: dict) -> str:
    """A row a part."""
    found = section["parts"]
    if "failed" in found:
        return found["failed"]
    return "\n".join(f"{name:<24}{value:>8.2f} s" for name, value in found["seconds"].items())
