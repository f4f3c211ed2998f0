"""One section in this process: ``python -m accelerator.section NAME`` from ``benchmarks/``."""

import os
import pathlib
import sys
import threading
import time

from accelerator import (
    cifar,
    correctness,
    device_tests,
    facts,
    losses,
    resnet18,
    resnet50,
    torch_steps,
)
from accelerator.recorder import Recorder

SECTIONS = {
    "facts": facts.run,
    "cifar": cifar.run,
    "correctness": correctness.run,
    "resident": resnet18.resident,
    "resnet50": resnet50.steps,
    "torch": torch_steps.run,
    "losses": losses.run,
    "determinism": resnet18.determinism,
    "variants": resnet50.variants,
    "largest": resnet50.largest,
    "tests": device_tests.run,
}


def main(name: str) -> None:
    """Options come from the environment that ``accelerator.run`` sets."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    out, small = pathlib.Path(os.environ["KIT_OUT"]), bool(os.environ["KIT_SMALL"])
    record = Recorder(out, name, float(os.environ["KIT_END"]))
    SECTIONS[name](record, small=small)


def _end_with_parent(parent: int) -> None:
    """Ends this process once the kit that started it is gone: nothing may use the device then."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
