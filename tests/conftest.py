"""Eight simulated devices and a compile cache, set before JAX starts."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["JAX_PLATFORMS"] = os.environ.get("CSSL_TEST_PLATFORM", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Tests compile far more than they compute.
    + " --xla_backend_optimization_level=0"
).strip()

import jax

_CACHE = pathlib.Path(__file__).resolve().parent.parent / ".jax_cache" / jax.__version__
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
