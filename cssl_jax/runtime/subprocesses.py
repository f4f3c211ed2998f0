"""Runs Python modules in child processes, several at a time, and reads their results."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cssl_jax import registries
from cssl_jax.errors import RunError, UserError
from cssl_jax.runtime import platforms

# Settings of the parent that would change the devices or the precision of a child.
_FLAG = re.compile(r"--xla_force_host_platform_device_count=\S*")
_DROPPED = ("JAX_NUM_CPU_DEVICES", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")


def environment(*, simulated: bool) -> dict[str, str]:
    """Environment variables for a child, without the parent's choice of devices and precision.

    Args:
        simulated: Whether the child uses CPU devices only, also where there are accelerators.
    """
    variables = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    if trusted := registries.trusted_code():
        variables[registries.TRUST_VARIABLE] = os.pathsep.join(sorted(trusted))
    variables["XLA_FLAGS"] = _FLAG.sub("", variables.get("XLA_FLAGS", "")).strip()
    if simulated:
        variables["JAX_PLATFORMS"] = "cpu"
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **variables}


def run(
    module: str,
    arguments: Sequence[Mapping[str, Any]],
    *,
    variables: Mapping[str, str],
    timeout: float,
    on_line: Callable[[dict[str, Any]], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Runs ``python -m module`` in one child per mapping of arguments, all at the same time.

    A child reads its arguments as one line of JSON, and writes its results as lines of JSON.

    Args:
        module: Module that calls ``serve`` with a function of the arguments.
        arguments: One mapping of JSON values per child.
        variables: Environment variables of the children.
        timeout: Seconds until all children must have ended.
        on_line: Called with every line of the first child as it arrives.

    Returns:
        All lines of the first child.

    Raises:
        RunError: A child failed, or they took too long; the others are killed.
    """
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder) / f"{i}" for i in range(len(arguments))]
        children = [
            _start(module, argument, variables, path)
            for argument, path in zip(arguments, outputs, strict=True)
        ]
        end = time.monotonic() + timeout
        try:
            running = True
            while running:
                codes = [child.poll() for child in children]
                text = outputs[0].read_text()
                for line in text[: text.rfind("\n") + 1].splitlines()[len(lines) :]:
                    lines.append(json.loads(line))
                    on_line(lines[-1])
                for code, path in zip(codes, outputs, strict=True):
                    if code:
                        raise RunError(f"a process of {module} {_cause(code, path)}")
                running = None in codes
                if running and time.monotonic() > end:
                    raise RunError(
                        f"a process of {module} took longer than {timeout:g} s and was killed; "
                        "give a longer --timeout"
                    )
                time.sleep(0.05 if running else 0)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()
                child.stdin.close()  # type: ignore[union-attr]
    return lines


def devices(timeout: float) -> dict[str, Any]:
    """Devices of this machine: platform, kind, count, memory (bytes of one device, or None).

    A child process queries JAX. If this process did, it would hold the accelerator, which only one
    process can use, and other children could not.

    Args:
        timeout: Seconds until the child must have ended.

    Raises:
        RunError: The child failed or took too long.
    """
    variables = environment(simulated=False)
    (description,) = run(
        "cssl_jax.runtime.device_child", [{}], variables=variables, timeout=timeout
    )
    return description


def _start(
    module: str, argument: Mapping[str, Any], variables: Mapping[str, str], path: pathlib.Path
) -> subprocess.Popen[str]:
    with path.open("w") as output, path.with_suffix(".errors").open("w") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", module],
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            text=True,
        )
    assert child.stdin is not None
    child.stdin.write(json.dumps(argument) + "\n")
    child.stdin.flush()  # left open: it closes when this process ends, see ``serve``
    return child


def _cause(code: int, path: pathlib.Path) -> str:
    """Why a child with this exit code ended, from its signal or its last line of errors."""
    lines = path.with_suffix(".errors").read_text().strip().splitlines() or ["without a message"]
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", usually because memory ran out" if name == "SIGKILL" else f": {lines[-1]}"
        return f"was ended by {name}{hint}"
    return f"failed: {lines[-1]}"


def serve(main: Callable[..., None]) -> None:
    """Runs a child: calls ``main(report, **arguments)`` with the arguments that the parent sent.

    ``report(**line)`` sends a line of JSON values to the parent. The child exits when the parent
    does.
    """
    arguments = json.loads(sys.stdin.readline())
    # Libraries, C++ ones included, print to standard output: redirect that to standard error.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(**line: Any) -> None:
        print(json.dumps(line), file=results, flush=True)

    def end_with_the_parent() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock a daemon would hold at shutdown
            pass
        os._exit(1)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    try:
        main(report, **arguments)
    except platforms.FAILURES:
        try:
            platforms.require()
        except UserError as error:
            sys.exit(str(error))  # becomes the last line, which the parent quotes
        raise
