"""Section ``parts``: the cost of a view by part, on one thread; the parts explain the whole.

Each part runs alone on the same examples, parameters and crops, so their sum and the time of the
whole are independent measurements.
"""

import argparse
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
from measuring import process
from measuring.report import cpu_environment, target

from input import photos

COUNT, ROWS, VIEWS = 128, 64, 2
LABELS = {
    "draws": "order and parameters of the views (JAX)",
    "read": "read and decode, once for both views",
    "resize": "crop and resize",
    "finish": "colours and blur",
    "write": "flip and round to 8 bits",
}
TOLERANCE = 0.15  # share of the whole that the sum of the parts may differ by


def run(options: argparse.Namespace) -> dict:
    """Both kernels, one after another, each in a process of its own."""
    rows = []
    for antialias in (True, False):
        with tempfile.TemporaryDirectory() as name:
            source = photos.make(pathlib.Path(name), options.photos, COUNT)
            measured = process.call(
                "input.parts.measure",
                folder=name,
                size=options.size,
                policy={"interpolation": options.interpolation, "antialias": antialias},
                rounds=options.rounds,
                environment=cpu_environment(),
                timeout=options.timeout,
            )
        rows.append({"antialias": antialias, **measured})
    unexplained = [abs(sum(row["parts"].values()) / row["whole"] - 1) for row in rows]
    return {
        "photos": source,
        "view": options.size,
        "rows": rows,
        "targets": [target("share of a view that the parts miss", unexplained, TOLERANCE)],
    }


def measure(folder: str, size: int, policy: dict, rounds: int) -> dict:
    """Milliseconds of CPU time per view of each part and of the whole; medians over the rounds."""
    bench = _Bench(folder, size, policy)
    for step in range(2):  # the first calls compile and allocate
        bench.times(step)
    found = [bench.times(step) for step in range(2, 2 + 5 * rounds)]
    medians = {name: statistics.median(times[name] for times in found) for name in found[0]}
    return {"whole": medians.pop("whole"), "parts": medians}


class _Bench:
    """The parts of a batch of views by OpenCV, each as a function of its own."""

    def __init__(self, folder: str, size: int, policy: dict) -> None:
        from cssl_jax.augment.image.opencv import Canvas
        from cssl_jax.augment.image.policy import ImagePolicy
        from cssl_jax.augment.view_group import SizedGroup
        from cssl_jax.config.images import ImageOptions
        from cssl_jax.data.pipeline import host_draws
        from cssl_jax.data.pipeline.rendering import painter, render
        from cssl_jax.data.pipeline.rendering.resizer import Resizer
        from cssl_jax.data.sampler import Sampler
        from cssl_jax.data.sources.open import load_source

        source = load_source(folder, ImageOptions(in_memory=False))
        group = SizedGroup(count=VIEWS, size=size, policy=ImagePolicy(**policy))
        self._job = host_draws.ViewJob(
            source=source,
            sampler=Sampler(len(source), ROWS, seed=0),
            groups={"main": group},
            rows=np.arange(ROWS),
            kernels="opencv",
        )
        self._draw = host_draws.draws(self._job, render.pack)
        self._paint = painter.painter(self._job)
        self._canvas, self._resizer = Canvas(group.policy, size, 3), Resizer(group.policy)
        self._parameters = render.parameters_of(group.policy)
        self._decoded = np.empty(painter.DECODED, np.uint8)
        self._pixels = np.empty((ROWS * VIEWS, size, size, 3), np.float32)

    def times(self, step: int) -> dict[str, float]:
        """Milliseconds of CPU time per view by part, and of the whole, in one batch."""
        index, halvings, drawn = self._drawn(step)
        examples = list(zip(index.tolist(), halvings.tolist(), strict=True))
        boxes = drawn["main"]["box"].reshape(-1, 4).tolist()
        vectors = drawn["main"]["vector"].reshape(ROWS * VIEWS, -1)
        images = [self._job.source.image(*example) for example in examples]
        crops = [
            images[number // VIEWS][top : top + height, left : left + width]
            for number, (top, left, height, width) in enumerate(boxes)
        ]
        views = self._job.empty_views()
        return {
            "draws": _cpu_ms(lambda: self._drawn(step)),
            "read": _cpu_ms(lambda: self._read(examples)),
            "resize": _cpu_ms(lambda: self._resize(crops)),
            "finish": _cpu_ms(lambda: self._finish(vectors)),
            "write": _cpu_ms(lambda: self._write(vectors, views["main"])),
            "whole": _cpu_ms(lambda: self._paint(*self._drawn(step), views)),
        }

    def _drawn(self, step: int) -> tuple:
        index, keys = self._job.sampler.draw(step, self._job.rows)
        return index, *self._draw(index, keys)

    def _read(self, examples: list[tuple[int, int]]) -> None:
        for number, halvings in examples:
            self._job.source.image(number, halvings, self._decoded)

    def _resize(self, crops: list[np.ndarray]) -> None:
        for crop, out in zip(crops, self._pixels, strict=True):
            self._resizer(crop, out)

    def _finish(self, vectors: np.ndarray) -> None:
        for pixels, vector in zip(self._pixels, vectors, strict=True):
            self._canvas.pixels = pixels
            self._canvas.finish(self._parameters(vector))

    def _write(self, vectors: np.ndarray, views: np.ndarray) -> None:
        outs = views.reshape(self._pixels.shape)
        for vector, out in zip(vectors, outs, strict=True):
            self._canvas.write(out, self._parameters(vector))


def _cpu_ms(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return 1e3 * (time.process_time() - start) / (ROWS * VIEWS)


def table(section: dict) -> str:
    """One column per kernel."""
    rows = section["rows"]
    heads = ["antialiased" if row["antialias"] else "plain" for row in rows]
    lines = [f"{'CPU ms per view':<42}" + "".join(f"{head:>14}" for head in heads)]
    for name, label in LABELS.items():
        lines.append(f"{label:<42}" + "".join(f"{row['parts'][name]:>14.3f}" for row in rows))
    sums = [sum(row["parts"].values()) for row in rows]
    lines.append(f"{'sum':<42}" + "".join(f"{value:>14.3f}" for value in sums))
    lines.append(f"{'whole':<42}" + "".join(f"{row['whole']:>14.3f}" for row in rows))
    return "\n".join(lines)
