"""What evaluation on cached features costs: neighbours and probes beside scikit-learn and faiss.

Every value comes from a process of its own, on made-up features with classes and correlated
dimensions (``evaluation/features.py``). Prints a table and its targets' verdicts for each
section; writes ``benchmarks/results/evaluation.json``.

    knn     10,000 queries, their 200 nearest of 50,000 x 512, beside faiss and scikit-learn
    sweep   logistic regression on 50,000 x 512, 10 classes, 45 penalties, beside scikit-learn's
    single  the same with one penalty

Command: python benchmarks/evaluation.py [--sections knn,sweep] [--peer-python PATH]
The peers come with ``pip install -e .[bench]``, or from an interpreter of their own: --peer-python.
"""

import argparse
import os
import pathlib
import sys
import types

from evaluation import neighbours, probe
from measuring import sections

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SECTIONS = {
    "knn": neighbours,
    "sweep": types.SimpleNamespace(run=probe.run_sweep, table=probe.table),
    "single": types.SimpleNamespace(run=probe.run_single, table=probe.table),
}


def main() -> None:
    options = parse()
    sections.run(
        SECTIONS,
        options,
        command="benchmarks/evaluation.py",
        path=options.results / "evaluation.json",
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sections", type=sections.names(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--bank", type=int, default=50_000, help="rows that are learnt from")
    parser.add_argument("--queries", type=int, default=10_000, help="rows that are tested")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--l2", type=float, default=1e-3, help="of section single")
    parser.add_argument("--rounds", type=int, default=3, help="of section knn")
    parser.add_argument("--repeats", type=int, default=2, help="timed runs after a first one")
    parser.add_argument("--precision", type=float, default=1e-6, help="of our fits")
    parser.add_argument("--tolerances", type=float, nargs="+", default=[1e-4, 1e-5],
                        help="of scikit-learn's fits")  # fmt: skip
    parser.add_argument("--timeout", type=float, default=600, help="seconds a process may take")
    parser.add_argument("--own-python", default=sys.executable, help=argparse.SUPPRESS)
    parser.add_argument("--peer-python", default=os.environ.get("CSSL_PEER_PYTHON", sys.executable),
                        help="an interpreter that has scikit-learn and faiss-cpu")  # fmt: skip
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
