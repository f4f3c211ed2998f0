"""What ``cssl-jax doctor`` looks at: the installation and the machine, with a way out.

At its top it imports nothing that may be missing, so that it can say what is.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cssl_jax.version import __version__

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "numpy", "scipy"),
    *("tensorflow", "tensorflow-datasets", "tyro", "tensorboard"),
    *("opencv-python-headless", "simplejpeg"),
)
OPTIONAL = {  # what each is for
    "tensorflow": "data.augment_on=host needs it",
    "tensorflow-datasets": "TFDS data sets need it",
    "opencv-python-headless": "without OpenCV the host makes views several times as slowly",
    "simplejpeg": "without it JPEGs are decoded by Pillow or TensorFlow, half as fast",
    "tensorboard": "TensorBoard events need it (or --train.no-tensorboard)",
}
# Where a package is not imported by its own name.
MODULES = {"orbax-checkpoint": "orbax", "opencv-python-headless": "cv2", "opencv-python": "cv2"}
SUBSTITUTES = {"opencv-python-headless": "opencv-python"}  # packages of the same modules
PYTHON = (3, 11)
ACCELERATORS = {"nvidia-smi": ("gpu", 'pip install "jax[cuda13]"')}


def examine(known: Sequence[str] = ()) -> tuple[str, bool]:
    """(report for a person, whether training can start); ``known`` problems are added."""
    lines = [f"cssl_jax {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    problems, hints = [*python_trouble(sys.version_info[:2]), *known], []
    wanted = requirements()
    for name in PACKAGES:
        version = _version(name) or _version(SUBSTITUTES.get(name, name))
        lines.append(f"  {name:<20} {version or 'missing'}")
        wrong = package_trouble(name, version, wanted.get(name))
        if wrong and name in OPTIONAL:
            hints.append(f"{wrong} ({OPTIONAL[name]})")
        elif wrong:
            problems.append(wrong)
    found, trouble = _devices()
    lines += found
    problems += trouble
    lines += _memory()
    hints += _idle_accelerators(found)
    lines += [f"problem: {text}" for text in problems] + [f"hint: {text}" for text in hints]
    if not problems:
        lines.append("ready to train")
    return "\n".join(lines), not problems


def instead_of_commands(error: Exception) -> NoReturn:
    """Speaks for the command line where it cannot be imported.

    Raises:
        SystemExit: Always; after the report where the command was ``doctor``.
    """
    if sys.argv[1:2] != ["doctor"]:
        sys.exit(f"cssl-jax: {error}; `cssl-jax doctor` says how to mend the installation")
    report, _ = examine([f"the commands cannot be imported: {error}"])
    print(report)
    sys.exit(1)


def python_trouble(version: tuple[int, ...]) -> list[str]:
    """What is wrong with a Python (major, minor); nothing if it is new enough."""
    if version >= PYTHON:
        return []
    has, needs = (".".join(map(str, numbers)) for numbers in (version, PYTHON))
    remedy = f"python{needs} -m venv .venv && .venv/bin/pip install cssl-jax"
    return [f"Python {has} is too old, {needs} or newer is needed: {remedy}"]


def package_trouble(name: str, version: str | None, requirement: Any) -> str:
    """What is wrong with a package, and the command that mends it; "" if nothing is.

    Args:
        name: Of the package.
        version: That is installed; None where it is missing.
        requirement: ``packaging.requirements.Requirement`` on it, or None.
    """
    bounds = "" if requirement is None else str(requirement.specifier)
    command = f'pip install "{name}{bounds}"'
    if version is None:
        return f"{name} is missing: {command}"
    if requirement is None or requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{name} {version} does not satisfy {bounds}: {command}"


def requirements() -> dict[str, Any]:
    """This package's own requirements by name; none where they, or ``packaging``, are missing."""
    try:
        from packaging.requirements import Requirement

        lines: Sequence[str] = importlib.metadata.requires("cssl-jax") or ()
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return {}
    return {r.name: r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate()}


def _version(name: str) -> str | None:
    """Installed version; None where there is no such package or it left no module behind."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    there = importlib.util.find_spec(MODULES.get(name, name.replace("-", "_")))
    return None if there is None else version


def _devices() -> tuple[list[str], list[str]]:
    if importlib.util.find_spec("jax") is None:
        return [], []  # told already
    try:
        import jax

        from cssl_jax.runtime import platforms, process
    except (ImportError, RuntimeError) as error:  # RuntimeError: jaxlib of another version
        return [], [f"JAX cannot be imported: {error}"]
    try:
        devices = jax.local_devices()
    except platforms.FAILURES as error:
        return [], [platforms.trouble(error)]
    lines = []
    for device in devices:
        limit = process.device_memory(device)
        memory = "" if limit is None else f", {limit / 2**30:.1f} GiB"
        lines.append(f"  device {device.id}: {device.platform}, {device.device_kind}{memory}")
    lines.append(f"  {jax.process_count()} process(es), {jax.device_count()} device(s) in all")
    lines.append(f"  compiled programs are kept in {process.set_compile_cache('') or 'no folder'}")
    return lines, []


def _memory() -> list[str]:
    lines = [f"  {os.cpu_count()} CPU cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        lines[0] += f", {total:.1f} GiB of memory"
    lines.append(f"  {shutil.disk_usage('.').free / 2**30:.1f} GiB free on this disk")
    return lines


def _idle_accelerators(found: list[str]) -> list[str]:
    return [
        f"{tool} is here, but JAX sees no {platform_name}: {remedy}"
        for tool, (platform_name, remedy) in ACCELERATORS.items()
        if shutil.which(tool) and not any(f": {platform_name}," in line for line in found)
    ]
