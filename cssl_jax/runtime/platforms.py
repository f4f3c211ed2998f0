"""The platform that JAX is asked for (JAX_PLATFORMS), and the answer where it cannot start."""

import importlib.metadata

import jax

from cssl_jax.errors import UserError

# Platform -> the packages that bring it (any one of them), and the command that installs one.
_PACKAGES = {
    "cuda": (("jax-cuda13-plugin", "jax-cuda12-plugin"), 'pip install "jax[cuda13]"'),
    "rocm": (("jax-rocm7-plugin",), 'pip install "jax[rocm7-local]"'),
    "tpu": (("libtpu",), 'pip install "jax[tpu]"'),
}
_ALIASES = {"gpu": "cuda"}  # JAX tries ROCm as well
# JAX fails an assertion where the package of a GPU platform that it was asked for is missing.
FAILURES = (RuntimeError, AssertionError)


def require() -> None:
    """Starts JAX's backends, after ``distributed.start`` where processes share a run.

    Raises:
        UserError: The platform that was asked for is not there.
    """
    try:
        jax.devices()
    except FAILURES as error:
        raise UserError(trouble(error)) from error


def trouble(error: Exception) -> str:
    """What was asked for, what is installed and what to type, for an error of ``jax.devices``."""
    asked = (jax.config.values["jax_platforms"] or "").strip()
    names = [_ALIASES.get(name.strip(), name.strip()) for name in asked.split(",") if name.strip()]
    installed = {name: found for name in _PACKAGES if (found := _installed(name))}
    there = ", ".join([f"jax {jax.__version__}", *installed.values()])
    remedies = [_PACKAGES[name][1] for name in names if name in _PACKAGES and name not in installed]
    unknown = [name for name in names if name not in (*_PACKAGES, "cpu")]
    if unknown:
        remedies.append(f"one of the platforms {', '.join(('cpu', *_PACKAGES))}")
    remedies.append("JAX_PLATFORMS=cpu, or unset it to take what is there" if asked else "")
    reason = str(error).partition(" (set JAX_PLATFORMS")[0].strip() or "no package brings it"
    if not installed.keys() & set(names):
        reason = reason if unknown else "no package brings it"
    wanted = f"JAX_PLATFORMS={asked!r} asks for {asked}" if asked else "JAX looks for a device"
    return (
        f"{wanted}, which cannot be started: {' '.join(reason.split())}. Installed: {there}. "
        f"Give {', or '.join(filter(None, remedies)) or 'the command `cssl-jax doctor`'}"
    )


def _installed(platform: str) -> str:
    """Name and version of the package that brings a platform; "" where there is none."""
    for package in _PACKAGES[platform][0]:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
