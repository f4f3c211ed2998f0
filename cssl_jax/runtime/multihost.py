"""Coordinates the processes of one run: actions on all or on the primary one, with shared errors.

Functions that exchange data are collective calls: all processes must make them, in the same order.
Between them, no process does anything that the others would have to wait for. With a single process
they cost nothing.
"""

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from cssl_jax.errors import InterruptedRunError, MissingDataError, RunError, UserError

T = TypeVar("T")
_KINDS = {
    kind.__name__: kind for kind in (UserError, MissingDataError, RunError, InterruptedRunError)
}
# Messages of JAX, Gloo, NCCL and Orbax about a lost peer; other errors contain none of these.
_LOST = re.compile(
    r"gloo|connection (closed|reset)|socket closed|UNAVAILABLE|DEADLINE_EXCEEDED|heartbeat|"
    r"coordination|barrier|NCCL",
    re.IGNORECASE,
)


def is_single_process() -> bool:
    """Whether the run has a single process."""
    return bool(jax.process_count() == 1)


def is_primary() -> bool:
    """Whether this is the primary process (process 0), which writes files and prints."""
    return jax.process_index() == 0


def gather(content: Any) -> list[Any]:
    """Gathers a JSON value from every process; a collective call.

    Args:
        content: JSON value of this process.

    Returns:
        The values of all processes, in the order of their numbers.
    """
    if is_single_process():
        return [content]
    text = np.frombuffer(json.dumps(content).encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.int32(len(text))).max())
    size = 1 << max(longest - 1, 255).bit_length()  # few sizes: each compiles a program
    padded = np.pad(text, (0, size - len(text)), constant_values=ord(" "))
    return [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)]


def run_on_all(act: Callable[[], T]) -> T:
    """Calls ``act`` on every process; if one fails, all raise its error. A collective call.

    ``act`` must not make collective calls: a process that failed before would never make them.

    Args:
        act: Function without arguments.

    Returns:
        This process's result of ``act``.

    Raises:
        UserError, RunError, InterruptedRunError: Error of the process that failed; any other type
            of error becomes a RunError on the other processes.
    """
    if is_single_process():
        return act()
    error: Exception | None = None
    try:
        result = act()
    except Exception as failure:  # of any type: the other processes wait for this one
        error = failure
    failures = gather(None if error is None else [type(error).__name__, _message(error), _host()])
    if error is not None:
        raise error
    for number, failed in enumerate(failures):
        if failed is not None:
            kind, message, host = failed
            raise _KINDS.get(kind, RunError)(f"process {number} ({host}): {message}")
    return result


def run_on_primary(act: Callable[[], T]) -> T | None:
    """Calls ``act`` on the primary process while the others wait. A collective call.

    Args:
        act: Function without arguments, see ``run_on_all`` for its errors.

    Returns:
        The result of ``act`` on the primary process; None on the others.
    """
    return run_on_all(act) if is_primary() else run_on_all(lambda: None)


def broadcast_from_primary(make: Callable[[], T]) -> T:
    """Calls ``make`` on the primary process and returns its result on all. A collective call.

    Args:
        make: Function without arguments that returns a JSON value, see ``run_on_all`` for its
            errors.
    """
    value = run_on_primary(make)
    return value if is_single_process() else gather(value)[0]  # type: ignore[return-value]


def require_same(facts: Mapping[str, Any]) -> None:
    """Checks that named JSON values are the same on all processes. A collective call.

    Args:
        facts: Name -> value on this process.

    Raises:
        UserError: Values differ; the message lists them with their processes.
    """
    if is_single_process():
        return
    gathered = gather([_host(), {name: json.dumps(value) for name, value in facts.items()}])
    differing = []
    for name in dict.fromkeys(name for _, texts in gathered for name in texts):
        holders: dict[str, list[str]] = {}
        for number, (host, texts) in enumerate(gathered):
            holders.setdefault(texts.get(name, "unknown"), []).append(f"{number} ({host})")
        if len(holders) > 1:
            each = (f"{value} in process {_shortened(who)}" for value, who in holders.items())
            differing.append(f"{name}: {', '.join(each)}")
    if differing:
        raise UserError(
            "the processes of this run differ; start all with the same command, code and data:\n  "
            + "\n  ".join(differing)
        )


def _shortened(names: list[str]) -> str:
    """The first three names, and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextlib.contextmanager
def raise_if_peer_lost() -> Iterator[None]:
    """Context in which the loss of another process raises a RunError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_peer_lost(error):
            raise
        raise lost_peer_error(error) from error


def is_peer_lost(error: BaseException) -> bool:
    """Whether an error means that another process has ended or cannot be reached."""
    return not is_single_process() and bool(_LOST.search(str(error)))


def lost_peer_error(error: BaseException) -> RunError:
    """The RunError to raise for an error of which ``is_peer_lost`` is true."""
    return RunError(
        f"another process of this run is gone ({_first_line(error)}); see its last messages for "
        "the cause. Saved checkpoints are kept: start all processes again to continue"
    )


def _message(error: Exception) -> str:
    """Text of an error; with its type, unless the text is written for users."""
    return str(error) if type(error).__name__ in _KINDS else f"{type(error).__name__}: {error}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _host() -> str:
    return socket.gethostname()
