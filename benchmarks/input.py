"""What the input costs: views/s of the host's pipelines beside peers, and the resident one's share.

500 x 375 JPEGs of quality 90, two views of 224 px, SimCLR's full policy, all cores. Prints a table
and its targets' verdicts for each section; writes ``benchmarks/results/input.json``.

    host        this project, OpenCV by hand and other loaders in interleaved rounds; memory
    host-plain  the same without antialiasing
    parts       CPU time of the parts of a view on one thread, and of the whole
    decode      ways to decode a JPEG for two windows, at 500 x 375 and 2,000 x 1,500
    resident    CIFAR-10 on a GPU: views made in the step, as a share of it

Command: python benchmarks/input.py --photos PHOTOS.tar [--peer-python PATH]
The photos are Imagenette's (--photos or CSSL_PHOTOS), else scikit-learn's samples. albumentations
and lightly are measured by an interpreter that has them, --peer-python or CSSL_PEER_PYTHON.
"""

import argparse
import functools
import os
import pathlib
import types

from input import decode, host, parts, resident
from input.contenders import LABELS
from measuring import sections

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SECTIONS = {
    "host": types.SimpleNamespace(
        run=functools.partial(host.run, antialias=True), table=host.table
    ),
    "host-plain": types.SimpleNamespace(
        run=functools.partial(host.run, antialias=False), table=host.table
    ),
    "parts": parts,
    "decode": decode,
    "resident": resident,
}


def main() -> None:
    options = parse()
    sections.run(SECTIONS, options, command="benchmarks/input.py", path=options.results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    photos = os.environ.get("CSSL_PHOTOS")
    parser.add_argument("--sections", type=sections.names(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--contenders", type=sections.names(LABELS), default=list(LABELS))
    parser.add_argument("--photos", type=pathlib.Path, default=photos and pathlib.Path(photos),
                        help="a tar of JPEGs")  # fmt: skip
    parser.add_argument("--count", type=int, default=400, help="photos made")
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear")
    parser.add_argument("--size", type=int, default=224, help="of a view, pixels")
    parser.add_argument("--examples", type=int, default=64, help="a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a timing")
    parser.add_argument("--growth-batches", type=int, default=2000, help="of the long run; 0: none")
    parser.add_argument("--timeout", type=float, default=300, help="seconds a process may take")
    parser.add_argument("--peer-python", default=os.environ.get("CSSL_PEER_PYTHON", ""),
                        help="an interpreter with the peers")  # fmt: skip
    parser.add_argument("--peer-imports", nargs="*", default=[],
                        help="modules that it must import first")  # fmt: skip
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "input.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
