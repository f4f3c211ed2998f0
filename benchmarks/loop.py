"""What the training loop costs: over the bare compiled step, a save in the background, the start.

The demo's recipe on this machine's devices. Prints a table and its targets' verdicts for each
section; writes ``benchmarks/results/loop.json``.

    steps   seconds a step: the bare compiled step, the loop, the loop with saves, in turn
    checks  the digests of a checkpoint and the check that replicas are equal, beside a step
    start   process start to first step, with a cold and a warm compile cache; the same of a resume

Command: python benchmarks/loop.py [--sections steps,checks,start] [--rounds 3] [--steps 110]
"""

import argparse
import pathlib

from loop import checks, start, steps
from measuring import sections

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SECTIONS = {"steps": steps, "checks": checks, "start": start}


def main() -> None:
    sections.run(SECTIONS, parse(), command="benchmarks/loop.py", path=RESULTS / "loop.json")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sections", type=sections.names(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=110, help="of a round")
    parser.add_argument("--save-every", type=int, default=25, help="steps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
