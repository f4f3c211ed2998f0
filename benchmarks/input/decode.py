"""Section ``decode``: reading a JPEG for two windows whole, by window, or at half its size."""

import argparse
import pathlib
import statistics
import tempfile
import time

from measuring import process
from measuring.report import cpu_environment

from input import photos

SIZES = ((500, 375), (2000, 1500))  # width and height
COUNT = 24  # photos of a size
VIEWS = 2
WAYS = {
    "whole": "whole, once for both views",
    "windows": "each view's window alone",
    "scaled": "at 1/2 ... 1/8 where both windows allow it, once",
}


def run(options: argparse.Namespace) -> dict:
    """Both sizes, one after another, in one process on one thread."""
    rows = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            source = photos.make(pathlib.Path(name), options.photos, COUNT, size)
            measured = process.call(
                "input.decode.measure",
                folder=name,
                view=options.size,
                rounds=options.rounds,
                environment=cpu_environment(),
                timeout=options.timeout,
            )
        rows.append({"size": size, **measured})
    return {"photos": source, "view": options.size, "rows": rows}


def measure(folder: str, view: int, rounds: int) -> dict:
    """Milliseconds a view of decoding alone; median of interleaved rounds over all photos."""
    import numpy as np
    import tensorflow as tf

    from cssl_jax.augment.image.policy import ImagePolicy
    from cssl_jax.augment.view_group import SizedGroup
    from cssl_jax.config.images import ImageOptions
    from cssl_jax.data.pipeline import host_draws
    from cssl_jax.data.sampler import Sampler
    from cssl_jax.data.sources.open import load_source

    tf.config.threading.set_intra_op_parallelism_threads(1)
    source = load_source(folder, ImageOptions(in_memory=False))
    rows = np.arange(len(source))
    job = host_draws.ViewJob(
        source=source,
        sampler=Sampler(len(source), len(source), seed=0),
        groups={"main": SizedGroup(count=VIEWS, size=view, policy=ImagePolicy())},
        rows=rows,
    )
    draw = host_draws.draws(job)
    contents = [source.encoded(number) for number in rows]
    method = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    halved = 0
    for content in contents:  # TensorFlow's first calls build what they run
        tf.io.decode_jpeg(content, **method)
        tf.io.decode_and_crop_jpeg(content, [0, 0, view, view], **method)
    for step in range(rounds):
        index, key = job.sampler.draw(step, job.rows)
        all_halvings, drawn = draw(index, key)
        halved += int((all_halvings > 0).sum())
        each = list(zip(index, drawn["main"]["box"], all_halvings, strict=True))
        for name, spent in times.items():
            start = time.perf_counter()
            for number, boxes, halvings in each:
                if name == "windows":
                    for box in boxes:
                        tf.io.decode_and_crop_jpeg(contents[number], box, **method)
                else:
                    ratio = 2 ** int(halvings) if name == "scaled" else 1
                    tf.io.decode_jpeg(contents[number], ratio=ratio, **method)
            spent.append(1000 * (time.perf_counter() - start) / len(each) / VIEWS)
    return {
        "ms_a_view": {name: statistics.median(spent) for name, spent in times.items()},
        "halved_share": halved / (rounds * len(source)),
    }


def table(section: dict) -> str:
    head = "".join(f"{width} x {height:<12}" for width, height in SIZES)
    lines = [
        f"{section['photos']}; decoding alone, ms a view of {section['view']} px, one core",
        "",
        f"{'':<50}{head}",
    ]
    for name, label in WAYS.items():
        cells = [
            f"{row['ms_a_view'][name]:<18.2f}" if "ms_a_view" in row else row["failed"]
            for row in section["rows"]
        ]
        lines.append(f"{label:<50}{''.join(cells)}")
    shares = [f"{row['halved_share']:<18.0%}" for row in section["rows"] if "halved_share" in row]
    lines.append(f"{'share of photos that are scaled':<50}{''.join(shares)}")
    return "\n".join(lines)
