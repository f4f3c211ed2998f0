"""What ``cssl-jax doctor`` looks at: the installation and the machine, with a way out."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil

from cssl_jax import runtime
from cssl_jax.version import __version__

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "numpy"),
    *("tensorflow", "tensorflow-datasets", "tyro", "tensorboard"),
)
OPTIONAL = {
    "tensorflow": "data.augment_on=host needs it: pip install tensorflow",
    "tensorflow-datasets": "TFDS data sets need it: pip install tensorflow-datasets",
    "tensorboard": "TensorBoard events need it (or --train.tensorboard False)",
}
ACCELERATORS = {"nvidia-smi": ("gpu", 'pip install "jax[cuda13]"')}


def examine() -> tuple[str, bool]:
    """(report for a person, whether training can start)."""
    lines = [f"cssl_jax {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    problems, hints = [], []
    for name in PACKAGES:
        try:
            lines.append(f"  {name:<20} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"  {name:<20} missing")
            if name in OPTIONAL:
                hints.append(f"{name} is missing: {OPTIONAL[name]}")
            else:
                problems.append(f"{name} is missing: pip install {name}")
    found, trouble = _devices()
    lines += found
    problems += trouble
    lines += _memory()
    hints += _idle_accelerators(found)
    lines += [f"problem: {text}" for text in problems] + [f"hint: {text}" for text in hints]
    if not problems:
        lines.append("ready to train")
    return "\n".join(lines), not problems


def _devices() -> tuple[list[str], list[str]]:
    if importlib.util.find_spec("jax") is None:
        return [], []
    import jax

    try:
        devices = jax.local_devices()
    except RuntimeError as error:
        wanted = os.environ.get("JAX_PLATFORMS", "")
        return [], [f"JAX finds no device (JAX_PLATFORMS={wanted!r}; unset it to try all): {error}"]
    lines = []
    for device in devices:
        limit = runtime.device_memory(device)
        memory = "" if limit is None else f", {limit / 2**30:.1f} GiB"
        lines.append(f"  device {device.id}: {device.platform}, {device.device_kind}{memory}")
    lines.append(f"  {jax.process_count()} process(es), {jax.device_count()} device(s) in all")
    lines.append(f"  compiled programs are kept in {runtime.set_compile_cache('') or 'no folder'}")
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
