"""Starts the platform that JAX is configured for, with a plain message if it cannot start."""

import importlib.metadata

import jax

from cssl_jax.errors import UserError

# Platform: (packages of which any one provides it, command that installs one of them).
_PACKAGES = {
    "cuda": (("jax-cuda13-plugin", "jax-cuda12-plugin"), 'pip install "jax[cuda13]"'),
    "rocm": (("jax-rocm7-plugin",), 'pip install "jax[rocm7-local]"'),
    "tpu": (("libtpu",), 'pip install "jax[tpu]"'),
}
_ALIASES = {"gpu": "cuda"}  # for "gpu" JAX tries ROCm as well
# Errors of ``jax.devices``: AssertionError if the package of a requested GPU platform is missing.
FAILURES = (RuntimeError, AssertionError)


def require() -> None:
    """Starts JAX's backends; a run of several processes calls ``distributed.start`` before.

    Raises:
        UserError: The requested platform cannot start.
    """
    try:
        jax.devices()
    except FAILURES as error:
        raise UserError(trouble(error)) from error


def trouble(error: Exception) -> str:
    """Message for an error of ``jax.devices``: requested and installed platforms, and a fix."""
    requested = (jax.config.values["jax_platforms"] or "").strip()
    names = [
        _ALIASES.get(name.strip(), name.strip()) for name in requested.split(",") if name.strip()
    ]
    installed = {name: package for name in _PACKAGES if (package := _installed(name))}
    packages = ", ".join([f"jax {jax.__version__}", *installed.values()])
    remedies = [_PACKAGES[name][1] for name in names if name in _PACKAGES and name not in installed]
    unknown = [name for name in names if name not in (*_PACKAGES, "cpu")]
    if unknown:
        remedies.append(f"one of the platforms {', '.join(('cpu', *_PACKAGES))}")
    remedies.append(
        "JAX_PLATFORMS=cpu, or unset it to use the available platform" if requested else ""
    )
    missing = "no installed package provides it"
    reason = str(error).partition(" (set JAX_PLATFORMS")[0].strip() or missing
    if not installed.keys() & set(names):
        reason = reason if unknown else missing
    wanted = (
        f"JAX_PLATFORMS={requested!r} requests {requested}"
        if requested
        else "JAX looks for a device"
    )
    return (
        f"{wanted}, which cannot be started: {' '.join(reason.split())}. Installed: {packages}. "
        f"Give {', or '.join(filter(None, remedies)) or 'the command `cssl-jax doctor`'}"
    )


def _installed(platform: str) -> str:
    """Name and version of the package that provides a platform; "" if there is none."""
    for package in _PACKAGES[platform][0]:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
