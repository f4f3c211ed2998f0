"""Every self-supervised method on CIFAR-10 in small: linear probe, kNN, step time and memory.

    scores  top-1 of the last epoch over seeds, beside raw pixels and the untrained encoder; every
            method trains for as many passes through the encoder as SimCLR
    cost    seconds and peak memory of a step, beside SimCLR's; each method in a fresh process

Prints a table per section; writes ``benchmarks/results/methods.json``. ``scores`` appends each
finished run to WORKDIR/rows.jsonl and skips the runs that are there already.

Command: python benchmarks/methods.py --train cifar10_train.npz --test cifar10_test.npz
         [--sections scores,cost] [--methods simclr,byol] [--seeds 3] [--epochs 60]
"""

import argparse
import pathlib

from measuring import sections
from methods import cost, scores, settings

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SECTIONS = {"scores": scores, "cost": cost}


def main() -> None:
    options = parse()
    sections.run(
        SECTIONS, options, command="benchmarks/methods.py", path=options.results / "methods.json"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sections", type=sections.names(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--methods", type=sections.names(settings.METHODS), default=None)
    parser.add_argument("--train", required=True, help="source of the training images")
    parser.add_argument("--test", required=True, help="source of the test images")
    parser.add_argument("--recipe", default="cifar10_resnet18", help="augmentation and stem")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60, help="of SimCLR")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=24, help="side of a view in pixels")
    parser.add_argument("--width", type=float, default=0.25, help="of the encoder")
    parser.add_argument("--head", type=int, default=512, help="largest width of a head's layer")
    parser.add_argument("--steps", type=int, default=10, help="of a measurement of cost")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/methods")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    options.methods = options.methods or list(settings.METHODS)
    for name in ("train", "test"):
        setattr(options, name, str(pathlib.Path(getattr(options, name)).absolute()))
    return options


if __name__ == "__main__":
    main()
