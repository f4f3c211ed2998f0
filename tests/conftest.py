"""Eight simulated devices and caches of the tests' own, set before JAX starts."""

import atexit
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["JAX_PLATFORMS"] = os.environ.get("CSSL_TEST_PLATFORM", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Tests compile far more than they compute.
    + " --xla_backend_optimization_level=0"
).strip()

os.environ["CSSL_JAX_CACHE"] = tempfile.mkdtemp(prefix="cssl-jax-tests-")
atexit.register(shutil.rmtree, os.environ["CSSL_JAX_CACHE"], ignore_errors=True)

import jax  # noqa: E402

_CACHE = pathlib.Path(__file__).resolve().parent.parent / ".jax_cache" / jax.__version__
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
