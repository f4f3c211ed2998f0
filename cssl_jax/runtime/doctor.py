"""Implements ``cssl-jax doctor``: checks the installation and the machine, and suggests fixes.

The module imports at its top only packages that cannot be missing, so that it can report those that
are.
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
OPTIONAL = {  # package: why to install it
    "tensorflow": "required by data.augment_on=host",
    "tensorflow-datasets": "required by TFDS data sets",
    "opencv-python-headless": "without OpenCV the host computes views several times as slowly",
    "simplejpeg": "without it Pillow or TensorFlow decode JPEGs, at half the speed",
    "tensorboard": "required by TensorBoard events (or use --train.no-tensorboard)",
}
# Package: module, if their names differ.
MODULES = {"orbax-checkpoint": "orbax", "opencv-python-headless": "cv2", "opencv-python": "cv2"}
SUBSTITUTES = {"opencv-python-headless": "opencv-python"}  # another package with the same module
PYTHON = (3, 11)
# Tool of an accelerator: (JAX's name of the platform, command that installs its support).
ACCELERATORS = {"nvidia-smi": ("gpu", 'pip install "jax[cuda13]"')}


def check_installation(known: Sequence[str] = ()) -> tuple[str, bool]:
    """Checks Python, packages, devices and memory.

    Args:
        known: Problems found elsewhere, to include in the report.

    Returns:
        (report as text, whether training can start).
    """
    lines = [f"cssl_jax {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    problems, hints = [*python_trouble(sys.version_info[:2]), *known], []
    wanted = requirements()
    for name in PACKAGES:
        version = _version(name) or _version(SUBSTITUTES.get(name, name))
        lines.append(f"  {name:<20} {version or 'missing'}")
        problem = package_trouble(name, version, wanted.get(name))
        if problem and name in OPTIONAL:
            hints.append(f"{problem} ({OPTIONAL[name]})")
        elif problem:
            problems.append(problem)
    device_lines, device_problems = _devices()
    lines += device_lines
    problems += device_problems
    lines += _memory()
    hints += _idle_accelerators(device_lines)
    lines += [f"problem: {text}" for text in problems] + [f"hint: {text}" for text in hints]
    if not problems:
        lines.append("ready to train")
    return "\n".join(lines), not problems


def instead_of_commands(error: Exception) -> NoReturn:
    """Replaces the command line if it cannot be imported: prints the report or a hint to it.

    Args:
        error: Error of the import.

    Raises:
        SystemExit: Always; for the command ``doctor``, after its report.
    """
    if sys.argv[1:2] != ["doctor"]:
        sys.exit(f"cssl-jax: {error}; `cssl-jax doctor` shows how to fix the installation")
    report, _ = check_installation([f"the commands cannot be imported: {error}"])
    print(report)
    sys.exit(1)


def python_trouble(version: tuple[int, ...]) -> list[str]:
    """Problems of a Python version (major, minor); [] if it is new enough."""
    if version >= PYTHON:
        return []
    found, needed = (".".join(map(str, numbers)) for numbers in (version, PYTHON))
    remedy = f"python{needed} -m venv .venv && .venv/bin/pip install cssl-jax"
    return [f"Python {found} is too old, {needed} or newer is needed: {remedy}"]


def package_trouble(name: str, version: str | None, requirement: Any) -> str:
    """Problem of a package and the command that fixes it; "" if there is none.

    Args:
        name: Name of the package.
        version: Installed version; None if the package is missing.
        requirement: ``packaging.requirements.Requirement`` of cssl_jax on the package, or None.
    """
    bounds = "" if requirement is None else str(requirement.specifier)
    command = f'pip install "{name}{bounds}"'
    if version is None:
        return f"{name} is missing: {command}"
    if requirement is None or requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{name} {version} does not satisfy {bounds}: {command}"


def requirements() -> dict[str, Any]:
    """Requirements of cssl_jax by name; {} if its metadata or ``packaging`` is missing."""
    try:
        from packaging.requirements import Requirement

        lines: Sequence[str] = importlib.metadata.requires("cssl-jax") or ()
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return {}
    return {r.name: r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate()}


def _version(name: str) -> str | None:
    """Installed version of a package; None if its metadata or its module is missing."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    spec = importlib.util.find_spec(MODULES.get(name, name.replace("-", "_")))
    return None if spec is None else version


def _devices() -> tuple[list[str], list[str]]:
    """(lines about JAX's devices, problems)."""
    if importlib.util.find_spec("jax") is None:
        return [], []  # reported among the packages
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
    lines.append(f"  {jax.process_count()} process(es), {jax.device_count()} device(s) in total")
    lines.append(f"  cache of compiled programs: {process.set_compile_cache('') or 'no folder'}")
    return lines, []


def _memory() -> list[str]:
    """Lines about CPU cores, memory and free disk space."""
    lines = [f"  {os.cpu_count()} CPU cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        lines[0] += f", {total:.1f} GiB of memory"
    lines.append(f"  {shutil.disk_usage('.').free / 2**30:.1f} GiB free on this disk")
    return lines


def _idle_accelerators(device_lines: list[str]) -> list[str]:
    """Hints about accelerators whose tool is installed, but which JAX does not use."""
    return [
        f"{tool} is installed, but JAX finds no {platform_name}: {remedy}"
        for tool, (platform_name, remedy) in ACCELERATORS.items()
        if shutil.which(tool) and not any(f": {platform_name}," in line for line in device_lines)
    ]
