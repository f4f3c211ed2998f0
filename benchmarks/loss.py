"""What the contrastive loss costs: beside peers, at scale, over devices, and in a training step.

Forward and backward of NT-Xent at d = 128; every value from a process of its own. Prints a table
and its targets' verdicts for each section; writes ``benchmarks/results/loss.json``, or
``loss_DEVICE.json`` for what was measured on an accelerator.

    peers    ours in tiles and dense, dense JAX, optax and lightly, 512 to 8,192 pairs
    scale    tiles from 4,096 to 131,072 rows: is memory linear?
    devices  compiled memory on 8 simulated devices, dense and tiled
    joint    the largest batch of ResNet-50 at 224 px on one device

Command: python benchmarks/loss.py [--sections peers,scale] [--peer-python PATH]
lightly is measured by an interpreter that has it, --peer-python or CSSL_PEER_PYTHON.
"""

import argparse
import os
import pathlib

from loss import devices, joint, peers, scale
from loss.contenders import LABELS
from measuring import process, sections

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SECTIONS = {"peers": peers, "scale": scale, "devices": devices, "joint": joint}


def main() -> None:
    options = parse()
    path = options.results / "loss.json"
    sections.run(SECTIONS, options, command="benchmarks/loss.py", path=path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sections", type=sections.names(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--contenders", type=sections.names(LABELS), default=list(LABELS))
    parser.add_argument("--pairs", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--scale-pairs", type=int, nargs="+", default=[2**k for k in range(11, 17)])
    parser.add_argument("--device-pairs", type=int, nargs="+", default=list(devices.DENSE_BOUNDS))
    parser.add_argument("--devices", type=int, default=8, help="simulated")
    parser.add_argument("--rounds", type=int, default=3, help="of section peers")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timed runs a process")
    parser.add_argument("--timeout", type=float, default=300, help="seconds a process may take")
    parser.add_argument("--scale-timeout", type=float, default=1800, help="of section scale")
    parser.add_argument("--memory-limit", type=float, default=process.default_memory_limit(),
                        help="GB a process may hold")  # fmt: skip
    parser.add_argument("--peer-python", default=os.environ.get("CSSL_PEER_PYTHON", ""),
                        help="an interpreter that has lightly")  # fmt: skip
    parser.add_argument("--peer-imports", nargs="*", default=[],
                        help="modules that it must import first")  # fmt: skip
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="folder")
    joint.add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
