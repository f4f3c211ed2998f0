"""The train step on a CPU beside PyTorch's, and beside the same step with Flax's own convolution.

Prints a table and the verdicts of the targets for each section; writes
``benchmarks/results/step.json``.

    steps       whole steps in float32 at three sizes, the contenders in turn, compile time too
    operations  the convolutions of ResNet-18 one by one, forward and both gradients

Command: python benchmarks/step.py --peer-python PATH [--sections steps,operations] [--rounds 3]
"""

import argparse
import pathlib

from measuring import sections
from step import operations, steps

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SECTIONS = {"steps": steps, "operations": operations}


def main() -> None:
    sections.run(SECTIONS, parse(), command="benchmarks/step.py", path=RESULTS / "step.json")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sections", type=sections.names(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of timed steps per measurement")
    parser.add_argument("--timeout", type=float, default=600, help="seconds per measurement")
    parser.add_argument("--peer-python", default="", help="has torch and torchvision")
    parser.add_argument("--peer-imports", nargs="*", default=[], help="modules it imports first")
    return parser.parse_args()


if __name__ == "__main__":
    main()
