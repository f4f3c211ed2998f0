"""What a report costs: seconds and megabytes of the whole command on 10,000 embedded images.

A small encoder is trained for a few steps on generated images (1/f noise in the colours of ten
classes, 64 px), then ``cssl-jax report`` runs in a process of its own:
import, compilation, embedding, PCA, t-SNE, neighbours, the probe behind the confusion matrix,
thumbnails, page, Markdown and PNGs. Writes ``benchmarks/results/report.json``.

Command: python benchmarks/report.py
"""

import argparse
import pathlib

from measuring import sections
from report import command, parts

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SECTIONS = {"command": command, "parts": parts}


def main() -> None:
    options = parse()
    path = options.results / "report.json"
    sections.run(SECTIONS, options, command="benchmarks/report.py", path=path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sections", type=sections.names(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--images", type=int, default=10_000, help="validation images")
    parser.add_argument("--training", type=int, default=2_000, help="training images")
    parser.add_argument("--side", type=int, default=64, help="side of an image in pixels")
    parser.add_argument("--plots", nargs="*", default=[], help="kinds of cssl-jax plot to time too")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a process may take")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
