"""Feeds broken files to every reader, and looks for a crash, a hang or an explosion of memory.

    python tests/fuzz.py --count 10000 --seed 1

Each file begins whole and is then cut, flipped, spliced, or given huge sizes where sizes may stand.
Every one must end in one of three ways: as images that decode, in rejected.csv with a reason, or
in one UserError of a line or a few. Masks, lists, labels files, configs and what a resume may
change are tried as well. Nothing may be written but where it was asked for.
"""

import argparse
import os
import sys
import warnings

from helpers.fuzzing.trial import FUZZERS, run

GROWTH = 768 * 2**20  # bytes that the process may grow by, in all


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=sorted(FUZZERS), default=())
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # decoders', about single files
    ends, grown = run(options.count, options.seed, options.only)
    print(f"{'reader':<10}{'files':>8}{'read':>8}{'refused':>9}")
    for name, (read, refused) in ends.items():
        print(f"{name:<10}{read + refused:>8}{read:>8}{refused:>9}")
    print(f"grew by {grown / 2**20:.0f} MiB at most")
    assert grown < GROWTH, "memory exploded"
    return 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
