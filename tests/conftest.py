"""Eight simulated devices and folders of the tests' own, set before JAX starts."""

import atexit
import gc
import os
import pathlib
import shutil
import tempfile

import pytest

from helpers import compilation

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["JAX_PLATFORMS"] = os.environ.get("CSSL_TEST_PLATFORM", "cpu")
shared = compilation.shared_folder()
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers and child processes inherit all of this
    os.environ["CSSL_TEST_XLA_FLAGS"] = compilation.cheap_flags()
    given = [os.environ.get("XLA_FLAGS", ""), os.environ["CSSL_TEST_XLA_FLAGS"]]
    os.environ["XLA_FLAGS"] = " ".join([*given, "--xla_force_host_platform_device_count=8"]).strip()
    # Whatever a library keeps in the home directory goes with the run; downloads stay.
    os.environ.setdefault("PIP_CACHE_DIR", str(pathlib.Path("~/.cache/pip").expanduser()))
    os.environ.setdefault("UV_CACHE_DIR", str(pathlib.Path("~/.cache/uv").expanduser()))
    os.environ["HOME"] = tempfile.mkdtemp(prefix="cssl-jax-home-")
    atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
    os.environ |= {
        # Threads that wait in a loop take CPU time from the tests beside them.
        "OMP_WAIT_POLICY": "passive",
        "OPENBLAS_NUM_THREADS": "1",
        "CSSL_TEST_FOLDER": str(shared),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(shared / "hypothesis"),
        "MPLCONFIGDIR": str(shared / "matplotlib"),  # its list of fonts takes seconds to build
    }
os.environ |= compilation.environment()
compilation.keep_to_one_core()
# Tracing makes objects by the million, and few in cycles: collecting as often as usual takes 5 %.
gc.set_threshold(100_000, 50, 100)

os.environ["CSSL_JAX_CACHE"] = tempfile.mkdtemp(prefix="cssl-jax-tests-")
atexit.register(shutil.rmtree, os.environ["CSSL_JAX_CACHE"], ignore_errors=True)

from helpers import cost, deadline, leftovers, order  # noqa: E402 - imports JAX

MEMORY = 6 * 2**30  # bytes of a test process above which it drops its compiled programs


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Compiled programs of earlier files take gigabytes; the persistent cache has them as well."""
    import jax  # after the variables above are set

    yield
    statm = pathlib.Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    if pages * os.sysconf("SC_PAGE_SIZE") > MEMORY:
        jax.clear_caches()
        gc.collect()


def pytest_addoption(parser):
    parser.addoption(
        "--limit-cost",
        action="store_true",
        help="fail if the suite exceeds the limits in tests/helpers/cost.py",
    )


def pytest_unconfigure():
    gc.freeze()  # pytest collects garbage five times at the end, over all that was imported


def pytest_configure(config):
    config.pluginmanager.register(cost.CostReport(config), "cost-report")
    config.pluginmanager.register(order.LongestFirst(config, shared), "longest-first")
    if until := os.environ.get("CSSL_TEST_UNTIL"):
        config.pluginmanager.register(deadline.Deadline(float(until)), "deadline")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(leftovers.Leftovers(config.rootpath), "leftovers")
