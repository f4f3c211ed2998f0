"""Two and four processes under JAX's distributed runtime: their host batches and gradients."""

import importlib.util

import jax
import numpy as np
import pytest

from cssl_jax.data.sampler import Sampler
from helpers import multiprocess, tiny

# Runs in each process, which writes its results to the folder ``out``.
CODE = """
import sys
import jax
from cssl_jax.cli import distributed_flags
from cssl_jax.runtime import distributed
given, (out, *pipelines) = distributed_flags.options(sys.argv[1:])
distributed.start(**given)
import numpy as np
from jax.experimental import multihost_utils
from helpers import tiny
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.runtime import spmd
from cssl_jax.data.pipeline.prefetch import place_host_batches
from cssl_jax.data.pipeline.registry import PIPELINES
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.sampler import Sampler
from cssl_jax.errors import UserError
from cssl_jax.modalities.image import IMAGE

assert len(jax.devices()) == 4
try:
    spmd.data_parallel(lambda *a: a, spmd.make_mesh(), "pmap")
except UserError as error:
    print("refused:", error)
config, source, mesh = tiny.config(), tiny.image_source(), spmd.make_mesh()
missing = spmd.replicate({"x": np.float32([1, np.nan, -0.0]), "n": np.int32(3)}, mesh)
found, sampler = jax.tree.map(np.asarray, missing), Sampler(len(source), 16, 0)
for name in pipelines:
    for micro_batch in (0, 8):
        rows = spmd.process_rows(16, mesh, micro_batch)
        pipeline = PIPELINES[name](
            source=source, sampler=sampler,
            groups={"a": SizedGroup(count=2, size=8, policy=config.augment)},
            spec=ImageSpec(8, 1, (0.5,), (0.2,)), modality=IMAGE, rows=rows,
        )
        # Global arrays, as the devices hold them.
        batches = place_host_batches(pipeline, mesh, "shard_map", 2, 4)
        for step, host_batch in enumerate(batches):
            index = host_batch["row" if name == "resident" else "index"]
            index = multihost_utils.process_allgather(index, tiled=True)
            if name == "resident":
                index = sampler.draw(step + 2, index)[0]
            found[f"{name}_{micro_batch}_{step + 2}"] = index
if jax.process_count() == 2:
    run = tiny.Run(config, 4, pipeline="stream")
    gradient = run.gradient()
    function = lambda *a: (lambda g, x: (g, x.metrics))(*gradient(*a))
    host_batch = next(run.host_batches(0, 1))
    grads, metrics = run.spread(function)(run.state(), run.constants, host_batch)
    found |= {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(grads))}
    found["loss"] = np.asarray(metrics["loss"])
np.savez(f"{out}/{jax.process_index()}.npz", **found)
"""


def results_of(count, folder, pipelines):
    ends = multiprocess.run(CODE, [str(folder), *pipelines], count, devices=4 // count)
    assert {end.status for end in ends} == {0}, ends
    for end in ends:
        assert f"refused: runtime.backend 'pmap' runs in one process, not in {count}" in end.out
    return [np.load(folder / f"{rank}.npz") for rank in range(count)]


def assert_same_batches(results, pipelines):
    sampler = Sampler(len(tiny.image_source()), 16, 0)
    for step in (2, 3):
        batch, _ = sampler.draw(step, np.arange(16))
        # Each of the 4 devices holds a quarter of every micro-batch of 8.
        device_rows = batch.reshape(2, 4, 2).swapaxes(0, 1).ravel()
        for result in results:
            for name in pipelines:
                np.testing.assert_array_equal(result[f"{name}_0_{step}"], batch)
                np.testing.assert_array_equal(result[f"{name}_8_{step}"], device_rows)


@pytest.mark.slow
def test_four_processes_supply_the_batches_of_one(tmp_path):
    assert_same_batches(results_of(4, tmp_path, ["resident", "stream"]), ["resident", "stream"])


@pytest.mark.slow
def test_two_processes_supply_the_batches_and_the_gradient_of_one(tmp_path):
    pipelines = ["resident", "stream", "threads-split"]
    pipelines += ["tf"] if importlib.util.find_spec("tensorflow") else []
    results = results_of(2, tmp_path, pipelines)
    assert_same_batches(results, pipelines)
    for result in results:  # a missing value is replicated as any other
        np.testing.assert_array_equal(result["x"], np.float32([1, np.nan, -0.0]))
        assert result["n"] == 3

    run = tiny.Run(tiny.config(), 4, pipeline="stream")
    gradient = run.gradient()

    def function(*arguments):
        grads, outputs = gradient(*arguments)
        return grads, outputs.metrics

    grads, metrics = run.spread(function)(run.state(), run.constants, next(run.host_batches(0, 1)))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    for result in results:
        assert float(result["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-6)
        for i, leaf in enumerate(jax.tree.leaves(grads)):
            np.testing.assert_allclose(result[str(i)], leaf, rtol=0, atol=1e-5 * largest)
