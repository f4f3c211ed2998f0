"""Commands `zoo list`, `zoo get` and `zoo verify`: trained encoders of an index."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.cli.parsing import parse

Name = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]


@dataclasses.dataclass(frozen=True)
class ZooList:
    """List the trained encoders of an index.

    Attributes:
        index: Path or URL of the index; "" is the one that comes with the package.
    """

    index: str = ""


@dataclasses.dataclass(frozen=True)
class ZooGet:
    """Write the weights of an encoder of an index to a file, after a check of their SHA-256.

    Attributes:
        name: Name of the encoder.
        output: File to write; "" is NAME.safetensors in the current folder.
        index: Path or URL of the index; "" is the one that comes with the package.
    """

    name: Name
    output: str = ""
    index: str = ""


@dataclasses.dataclass(frozen=True)
class ZooVerify:
    """Evaluate an encoder of an index again, and compare with the metrics that the index states.

    Attributes:
        name: Name of the encoder.
        index: Path or URL of the index; "" is the one that comes with the package.
    """

    name: Name
    index: str = ""


def list_zoo(argv: Sequence[str]) -> int:
    """`cssl-jax zoo list [--index INDEX]`."""
    from cssl_jax.zoo.zoo_index import open_zoo

    for entry in open_zoo(parse(ZooList, "zoo list", argv).index).entries.values():
        metrics = ", ".join(f"{name} {100 * v:.1f} %" for name, v in entry.metrics.items())
        print(
            f"{entry.name}  {entry.description}\n"
            f"  {metrics}\n"
            f"  {entry.bytes:,} bytes, {entry.license}, SHA-256 {entry.sha256}\n"
            f"  {entry.command}"
        )
    return 0


def get_zoo(argv: Sequence[str]) -> int:
    """`cssl-jax zoo get NAME [--output FILE]`."""
    from cssl_jax.outputs import check_output, stdout_kept_for, write_output
    from cssl_jax.zoo.zoo_index import open_zoo

    options = parse(ZooGet, "zoo get", argv)
    index = open_zoo(options.index)
    entry = index.entry(options.name)
    path = pathlib.Path(options.output or f"{entry.name}.safetensors").expanduser()
    check_output(path, ".safetensors")
    write_output(path, index.read(entry.name))
    with stdout_kept_for(path):
        print(f"{path}: {entry.bytes:,} bytes, SHA-256 {entry.sha256} as stated")
    return 0


def verify_zoo(argv: Sequence[str]) -> int:
    """`cssl-jax zoo verify NAME`."""
    from cssl_jax.train import zoo_verification

    options = parse(ZooVerify, "zoo verify", argv)
    print(zoo_verification.verify_zoo(options.name, options.index).describe())
    return 0
