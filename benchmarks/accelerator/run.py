"""The accelerator kit: sections in order of value, each a process of its own with a time box.

Every measurement is a JSON line in OUT/results.jsonl, on the disk at once: what is killed loses
nothing that it measured. Needs neither TensorFlow, TFDS nor an installed cssl_jax.

    facts        products, copies and launches that the device reaches
    cifar        cifar10_resnet18 by the command line, stopped by SIGTERM and resumed
    correctness  losses against float64, training against the CPU
    resident     ResNet-18, CIFAR: the step, and the share of its input pipeline
    resnet50     ResNet-50, 224 px, bfloat16, LARS: the step and its kernels
    torch        the same two steps in PyTorch, compiled and eager
    losses       NT-Xent, whole and in tiles, up to 65,536 pairs
    determinism  the same bits twice, and what they cost
    variants     ResNet-50 in float32 and with activations computed again
    largest      ResNet-50's largest batch
    tests        tests of the suite that one device is enough for

Command: python benchmarks/accelerator/run.py --out DIR [--seconds 540] [--data DIR] [--small]
"""

import argparse
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

BENCHMARKS = pathlib.Path(__file__).resolve().parents[1]
sys.path[0] = str(BENCHMARKS)

from accelerator import recorder, table  # noqa: E402

# Name -> (seconds at most, seconds that it needs to be worth starting).
SECTIONS = {
    "facts": (45, 20),
    "cifar": (330, 60),
    "correctness": (90, 30),
    "resident": (110, 40),
    "resnet50": (150, 60),
    "torch": (150, 50),
    "losses": (60, 25),
    "determinism": (90, 40),
    "variants": (120, 60),
    "largest": (120, 60),
    "tests": (60, 40),
}


def main() -> None:
    """Runs the sections and prints the table."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.seconds
    for name, at_most in options.sections:
        needed = min(SECTIONS[name][1], at_most)
        left = end - time.monotonic()
        if left < needed and not options.small:
            print(f"-- {name}: skipped, {left:.0f} s are left and {needed} needed", flush=True)
            continue
        ended, seconds = _run(name, 4 * at_most if options.small else min(at_most, left), options)
        line = {"section": name, "ended": ended, "seconds": round(seconds, 1)}
        recorder.append(options.out / recorder.RESULTS, line)
        print(f"== {name}: {ended}, {seconds:.1f} s", flush=True)
        if ended != "status 0":
            print((options.out / f"{name}.log").read_text()[-1500:], flush=True)
    print(table.text(recorder.read(options.out / recorder.RESULTS)), flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="output directory")
    parser.add_argument("--seconds", type=float, default=540, help="time for all sections")
    parser.add_argument(
        "--sections",
        type=_sections,
        default=",".join(SECTIONS),
        help="with commas; NAME:SECONDS gives one another time box",
    )
    parser.add_argument("--data", default="", help="directory with cifar10_train.npz")
    parser.add_argument(
        "--small", action="store_true", help="rehearsal on a CPU: tiny sizes, four times the time"
    )
    options = parser.parse_args()
    options.out = options.out.absolute()
    return options


def _sections(text: str) -> list[tuple[str, float]]:
    """(name, seconds at most) of each section in "facts,cifar:60"."""
    found = []
    for part in text.split(","):
        name, _, seconds = part.partition(":")
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(SECTIONS)}")
        found.append((name, float(seconds or SECTIONS[name][0])))
    return found


def _run(name: str, seconds: float, options: argparse.Namespace) -> tuple[str, float]:
    """(how it ended, seconds); a section that takes too long is killed with its children."""
    environment = {
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": str(options.out / "compile_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "KIT_OUT": str(options.out),
        "KIT_SMALL": "1" if options.small else "",
        "KIT_DATA": str(pathlib.Path(options.data).absolute()) if options.data else "",
        "KIT_END": str(time.time() + seconds - 3),
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")])
    )
    start = time.monotonic()
    with (options.out / f"{name}.log").open("a") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "accelerator.section", name],
            cwd=BENCHMARKS,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ended = f"status {child.wait(seconds)}"
        except subprocess.TimeoutExpired:
            ended = f"killed after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return ended, time.monotonic() - start


if __name__ == "__main__":
    main()
