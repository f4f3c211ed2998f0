"""Two real processes under JAX's distributed runtime."""

import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

TESTS = pathlib.Path(__file__).resolve().parent

CODE = """
import sys
import jax
port, rank, out = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(rank))
import numpy as np
import tiny
from cssl_jax import parallel
from cssl_jax.errors import UserError

assert jax.process_count() == 2 and len(jax.devices()) == 4
try:
    parallel.data_parallel(lambda *a: a, parallel.make_mesh(), "pmap")
except UserError as error:
    print("refused:", error)
run = tiny.Run(tiny.config(), 4, pipeline="stream")
gradient = run.gradient()
function = lambda *a: (lambda g, x: (g, x["metrics"]))(*gradient(*a))
feed = next(run.pipeline.feeds(0, 1))
grads, metrics = run.spread(function)(
    run.state(), run.constants, parallel.put_batch(feed, run.mesh)
)
leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(grads))}
np.savez(out, index=feed["index"], loss=np.asarray(metrics["loss"]), **leaves)
"""


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one_and_refuse_pmap(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "PATH": "/usr/bin:/bin"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(port), str(rank), str(tmp_path / f"{rank}.npz")],
            env={**environment, "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for child in children:
            out, err = child.communicate(timeout=300)
            assert child.returncode == 0, err
            assert "refused: runtime.backend 'pmap' runs in one process, not in 2" in out
    finally:
        for child in children:
            child.kill()

    import jax

    import tiny

    run = tiny.Run(tiny.config(), 4, pipeline="stream")
    gradient = run.gradient()

    def function(*arguments):
        grads, aux = gradient(*arguments)
        return grads, aux["metrics"]

    grads, metrics = run.spread(function)(run.state(), run.constants, next(run.feeds(0, 1)))
    results = [np.load(tmp_path / f"{rank}.npz") for rank in (0, 1)]
    index = next(run.pipeline.feeds(0, 1))["index"]
    np.testing.assert_array_equal(np.concatenate([r["index"] for r in results]), index)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    for result in results:
        assert float(result["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-6)
        for i, leaf in enumerate(jax.tree.leaves(grads)):
            np.testing.assert_allclose(result[str(i)], leaf, rtol=0, atol=1e-5 * largest)
