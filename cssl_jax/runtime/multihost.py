"""Several processes of one run act as one: all do, or the first does, and all know the outcome.

Every function here is a meeting: all processes must call it, in the same order. Between meetings a
process does nothing that the others would have to wait for; alone, none of them costs anything.
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

from cssl_jax.errors import InterruptedRunError, RunError, UserError

T = TypeVar("T")
_KINDS = {kind.__name__: kind for kind in (UserError, RunError, InterruptedRunError)}
# What JAX, Gloo, NCCL and Orbax say where a peer is gone; an error of this process says none of it.
_LOST = re.compile(
    r"gloo|connection (closed|reset)|socket closed|UNAVAILABLE|DEADLINE_EXCEEDED|heartbeat|"
    r"coordination|barrier|NCCL",
    re.IGNORECASE,
)


def is_single_process() -> bool:
    """Whether this process is the only one."""
    return jax.process_count() == 1


def is_primary() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def gather(content: Any) -> list[Any]:
    """What every process gives, by process; plain JSON."""
    if is_single_process():
        return [content]
    text = np.frombuffer(json.dumps(content).encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.int32(len(text))).max())
    size = 1 << max(longest - 1, 255).bit_length()  # few sizes: each is a program to compile
    padded = np.pad(text, (0, size - len(text)), constant_values=ord(" "))
    return [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)]


def run_on_all(act: Callable[[], T]) -> T:
    """Every process acts; where one fails, all do, with its words.

    ``act`` must not take part in a meeting or a collective: one that failed would not come to it.

    Raises:
        UserError, RunError, InterruptedRunError: As the one that failed; any other of its errors is
            a RunError to the others.
    """
    if is_single_process():
        return act()
    error: Exception | None = None
    try:
        result = act()
    except Exception as failure:  # whatever it is, the others wait to hear of it
        error = failure
    told = gather(None if error is None else [type(error).__name__, _words(error), _host()])
    if error is not None:
        raise error
    for number, trouble in enumerate(told):
        if trouble is not None:
            kind, words, host = trouble
            raise _KINDS.get(kind, RunError)(f"process {number} ({host}): {words}")
    return result


def run_on_primary(act: Callable[[], T]) -> T | None:
    """The first process acts, the others wait for it; errors as in ``together``.

    Returns:
        What it gave, in the first; None in the others.
    """
    return run_on_all(act) if is_primary() else run_on_all(lambda: None)


def broadcast_from_primary(make: Callable[[], T]) -> T:
    """What the first process makes, plain JSON, in all of them; errors as in ``together``."""
    made = run_on_primary(make)
    return made if is_single_process() else gather(made)[0]  # type: ignore[return-value]


def require_same(facts: Mapping[str, Any]) -> None:
    """Makes sure that these named facts, plain JSON, are the same in all processes.

    Raises:
        UserError: It names those that are not, with their values.
    """
    if is_single_process():
        return
    told = gather([_host(), {name: json.dumps(value) for name, value in facts.items()}])
    differing = []
    for name in dict.fromkeys(name for _, texts in told for name in texts):
        holders: dict[str, list[str]] = {}
        for number, (host, texts) in enumerate(told):
            holders.setdefault(texts.get(name, "unknown"), []).append(f"{number} ({host})")
        if len(holders) > 1:
            each = (f"{value} in process {_some(who)}" for value, who in holders.items())
            differing.append(f"{name}: {', '.join(each)}")
    if differing:
        raise UserError(
            "the processes of this run differ; start all with the same command, code and data:\n  "
            + "\n  ".join(differing)
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Within it, the loss of another process is a RunError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_lost(error):
            raise
        raise lost(error) from error


def is_lost(error: BaseException) -> bool:
    """Whether an error is that another process is gone."""
    return not is_single_process() and bool(_LOST.search(str(error)))


def lost(error: BaseException) -> RunError:
    """Words for it."""
    return RunError(
        f"another process of this run is gone ({_first_line(error)}); its own last words tell why. "
        "Checkpoints saved before stand: start all processes again to go on"
    )


def _words(error: Exception) -> str:
    return str(error) if type(error).__name__ in _KINDS else f"{type(error).__name__}: {error}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _host() -> str:
    return socket.gethostname()
