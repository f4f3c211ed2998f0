"""What it costs to know a state by its digests, and to compare it between devices."""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
from measuring.report import target

from cssl_jax import recipes
from cssl_jax.checkpoint import digests
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.runtime import process
from loop import steps

SHARE = 0.001  # of the steps between two checks


def run(options: argparse.Namespace) -> dict:
    process.set_compile_cache("")
    config = recipes.load(options.recipe)
    experiment = Experiment.from_config(config)
    state = steps.begin(config, experiment)
    check = digests.make_replica_check(experiment.mesh)
    bare = min(steps.Bare(config, experiment).seconds() for _ in range(1))
    found = {
        "digests": timed(lambda: jax.device_get(digests.digests(state)), options.rounds),
        "check": timed(lambda: check(state), options.rounds),
    }
    every = config.train.check_replicas_every
    return {
        "devices": experiment.mesh.size,
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "seconds": found,
        "seconds_a_step": bare,
        "targets": [
            target(
                f"a check every {every} steps, share of the steps",
                [found["check"] / (every * bare)],
                SHARE,
            )
        ],
    }


def table(section: dict) -> str:
    rows = [f"{name:<10}{1e3 * seconds:>10.2f} ms" for name, seconds in section["seconds"].items()]
    return "\n".join([*rows, f"{'a step':<10}{1e3 * section['seconds_a_step']:>10.2f} ms"])


def timed(function: Callable[[], object], rounds: int) -> float:
    function()  # compiles
    times = []
    for _ in range(5 * rounds):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
