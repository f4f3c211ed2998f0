"""Python modules in processes of their own, several at a time, watched from here."""

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

# What would make a child's devices or figures other than this module's callers ask for.
_FLAG = re.compile(r"--xla_force_host_platform_device_count=\S*")
_DROPPED = ("JAX_NUM_CPU_DEVICES", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")


def environment(*, simulated: bool) -> dict[str, str]:
    """This process's environment for a child that chooses its devices itself.

    Args:
        simulated: On CPU devices, whatever else there is.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    if trusted := registries.trusted_code():
        kept[registries.TRUST_VARIABLE] = os.pathsep.join(sorted(trusted))
    kept["XLA_FLAGS"] = _FLAG.sub("", kept.get("XLA_FLAGS", "")).strip()
    if simulated:
        kept["JAX_PLATFORMS"] = "cpu"
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **kept}


def run(
    module: str,
    arguments: Sequence[Mapping[str, Any]],
    *,
    variables: Mapping[str, str],
    timeout: float,
    heard: Callable[[dict[str, Any]], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Runs ``python -m module`` once for each of ``arguments``, at the same time.

    A child reads its arguments as one line of JSON, and writes lines of JSON.

    Args:
        module: With a ``main`` that is given the arguments, see ``serve``.
        arguments: One mapping a child.
        variables: Environment of the children.
        timeout: Seconds for all of them.
        heard: Called with every line of the first child as it comes.

    Returns:
        All lines of the first child.

    Raises:
        RunError: A child failed, or it took too long; the others are ended.
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
                    heard(lines[-1])
                for code, path in zip(codes, outputs, strict=True):
                    if code:
                        raise RunError(f"a process of {module} {_cause(code, path)}")
                running = None in codes
                if running and time.monotonic() > end:
                    raise RunError(
                        f"a process of {module} took longer than {timeout:g} s and was ended; "
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
    """The devices of this machine: platform, kind, count, memory (bytes of one, or None).

    This process must not ask itself where others are to use them: an accelerator belongs to one.
    """
    variables = environment(simulated=False)
    (found,) = run("cssl_jax.runtime.device_child", [{}], variables=variables, timeout=timeout)
    return found


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
    child.stdin.flush()  # and left open: its end is the end of this process, see ``serve``
    return child


def _cause(code: int, path: pathlib.Path) -> str:
    lines = path.with_suffix(".errors").read_text().strip().splitlines() or ["without a word"]
    if code < 0:
        name = signal.Signals(-code).name
        hint = ": out of memory, as a rule" if name == "SIGKILL" else f": {lines[-1]}"
        return f"was ended by {name}{hint}"
    return f"failed: {lines[-1]}"


def serve(main: Callable[..., None]) -> None:
    """In a child: ``main(tell, **arguments)``; ``tell(**line)`` is heard by the parent."""
    arguments = json.loads(sys.stdin.readline())
    # Libraries write to standard output as well, from C++ too: theirs goes to the errors.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**line: Any) -> None:
        print(json.dumps(line), file=answers, flush=True)

    def end_with_the_parent() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock a daemon would hold at shutdown
            pass
        os._exit(1)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    try:
        main(tell, **arguments)
    except platforms.FAILURES:
        try:
            platforms.require()
        except UserError as error:
            sys.exit(str(error))  # the line that the parent passes on
        raise
