"""Command `doctor`: state of the installation and of the devices."""

import dataclasses
from collections.abc import Sequence

from cssl_jax.cli.parsing import parse


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Check devices, versions and memory, and name the fix for each problem."""


def run(argv: Sequence[str]) -> int:
    """`cssl-jax doctor`."""
    from cssl_jax.runtime.doctor import check_installation

    parse(Doctor, "doctor", argv)
    report, healthy = check_installation()
    print(report)
    return 0 if healthy else 1
