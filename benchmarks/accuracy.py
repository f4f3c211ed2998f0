"""Time to an accuracy on CIFAR-10: the recipe ``cifar10_resnet18`` beside the same in PyTorch.

Both in bfloat16 where there is a GPU, PyTorch's channels-last and compiled, its augmentation
torchvision's in a DataLoader with a worker a core. Every so many epochs both encoders are evaluated
by the same linear probe, fitted on as many images; the seconds are those of training, compiling
included, evaluation excluded. Prints a table; writes ``benchmarks/results/accuracy.json``.

Command: python benchmarks/accuracy.py --cifar FOLDER [--target 85 --epochs 100 --every 10]
         [--peer-python PATH]
(FOLDER/cifar10_train.npz and cifar10_test*.npz)
"""

import argparse
import pathlib
import sys

from accuracy import race
from measuring import sections

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SECTIONS = {"race": race}


def main() -> None:
    sections.run(
        SECTIONS, parse(), command="benchmarks/accuracy.py", path=RESULTS / "accuracy.json"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sections", type=sections.names(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--cifar", type=pathlib.Path, required=True)
    parser.add_argument("--target", type=float, default=85.0, help="linear top-1, percent")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--every", type=int, default=10, help="epochs between two probes")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--images", type=int, default=0, help="to train on; 0 is all")
    parser.add_argument("--probe-images", type=int, default=10_000, help="the probe is fitted on")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/accuracy")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds a training may take")
    parser.add_argument("--peer-python", default=sys.executable, help="has torch and torchvision")
    parser.add_argument("--peer-imports", nargs="*", default=[], help="modules it imports first")
    return parser.parse_args()


if __name__ == "__main__":
    main()
