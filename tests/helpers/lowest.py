"""Lowest versions that requirements.txt allows, as constraints for pip; needs no package."""

import pathlib
import re
import sys

REQUIREMENTS = pathlib.Path(__file__).resolve().parents[2] / "requirements.txt"


def constraints(text):
    """Lines such as "flax==0.12.8" from lines such as "flax>=0.12.8,<0.13"."""
    found = []
    for name, lowest in re.findall(r"^([\w-]+)>=([\d.]+)", text, re.MULTILINE):
        # A bound of one or two numbers stands for its newest patch: ">=2.0" is tried as 2.0.x.
        exact = lowest if lowest.count(".") > 1 else f"{lowest}.*"
        found.append(f"{name}=={exact}")
        if name == "jax":
            found.append(f"jaxlib=={exact}")
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints(REQUIREMENTS.read_text())) + "\n")
