"""Which libtpu the installed jax compiles for TPUs with: its requirement, for pip."""

import importlib.metadata

from packaging.requirements import Requirement


def requirement() -> str:
    """Such as "libtpu==0.0.42.*", from jax's extra "tpu"."""
    lines = importlib.metadata.requires("jax") or []
    (found,) = {
        str(Requirement(line).specifier)
        for line in lines
        if Requirement(line).name == "libtpu" and 'extra == "tpu"' in line.replace("'", '"')
    }
    return f"libtpu{found}"


if __name__ == "__main__":
    print(requirement())
