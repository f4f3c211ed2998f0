"""Text that lists the commands: for `cssl-jax --help`, and for a group such as `cssl-jax data`."""

import textwrap
from collections.abc import Iterable

from cssl_jax.cli.registry import COMMANDS

_MORE = """\
cssl-jax COMMAND --help lists the options of a command. --trust-code lets a run
folder or a JSON config name Python files, which are then executed."""


def overview(names: Iterable[str]) -> str:
    """Usage, and one entry per command with its summary, for a terminal of 80 columns."""
    entries = [
        textwrap.fill(
            COMMANDS[name].summary,
            80,
            initial_indent=f"  {name:<13} ",
            subsequent_indent=" " * 16,
        )
        for name in names
    ]
    return "\n".join(["usage: cssl-jax COMMAND [options]", "", *entries, "", _MORE])
