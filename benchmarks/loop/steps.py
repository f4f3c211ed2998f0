"""Seconds a step: bare, in the loop, in the loop with saves."""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time

import jax
from measuring.report import target

from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.experiment import train_state
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.runtime import process, spmd
from cssl_jax.step.state import TrainState
from cssl_jax.train.compiled_step import compiled_step
from cssl_jax.train.hooks import Run
from cssl_jax.train.logging.logger import RunLogger
from cssl_jax.train.online import online_evaluation
from cssl_jax.train.trainer import Trainer

LOOP, SAVE = 0.03, 0.05  # most that may be lost


def run(options: argparse.Namespace) -> dict:
    process.set_compile_cache("")
    config = recipes.load(options.recipe)
    quiet = {"evaluate_every": 0, "checkpoint_every": 0, "checkpoint_minutes": 0.0}
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **quiet))
    experiment = dataclasses.replace(Experiment.from_config(config), total_steps=options.steps)
    bare = Bare(experiment)
    found: dict[str, list[float]] = {"bare": [], "loop": [], "saving": []}
    saves = []
    for _ in range(options.rounds):
        found["bare"].append(bare.seconds())
        found["loop"].append(looped(experiment, 0)[0])
        seconds, count = looped(experiment, options.save_every)
        found["saving"].append(seconds)
        saves.append(count)
    best = {name: min(times) for name, times in found.items()}
    return {
        "seconds_a_step": found,
        "best": best,
        "median": {name: statistics.median(times) for name, times in found.items()},
        "saves_a_round": saves[0],
        "targets": [
            target(
                "the loop over the bare step, best rounds", [best["loop"] / best["bare"] - 1], LOOP
            ),
            target(
                f"a save every {options.save_every} steps over the loop, best rounds",
                [best["saving"] / best["loop"] - 1],
                SAVE,
            ),
        ],
    }


def table(section: dict) -> str:
    rows = [f"{'':<8}{'best ms':>10}{'median ms':>12}"]
    for name in section["best"]:
        best, median = section["best"][name], section["median"][name]
        rows.append(f"{name:<8}{1e3 * best:>10.2f}{1e3 * median:>12.2f}")
    return "\n".join(rows)


class Bare:
    """The compiled step and nothing else, on inputs that lie on the device."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._step = compiled_step(experiment)
        self._constants = spmd.replicate(experiment.pipeline.constants, experiment.mesh)

    def seconds(self) -> float:
        """A step's, of all but the first."""
        state = begin(self._experiment)
        host_batch = spmd.put_batch(
            next(self._experiment.pipeline.host_batches(0, 1)), self._experiment.mesh
        )
        state, metrics = self._step(state, self._constants, host_batch)
        jax.block_until_ready(metrics)
        begun = time.perf_counter()
        for _ in range(1, self._experiment.total_steps):
            state, metrics = self._step(state, self._constants, host_batch)
        jax.block_until_ready((state, metrics))
        return (time.perf_counter() - begun) / (self._experiment.total_steps - 1)


def from_the_start(folder: str, experiment: Experiment, checkpoints: Checkpoints) -> Trainer:
    """The loop before its first step."""
    run = Run(pathlib.Path(folder), experiment, begin(experiment))
    evaluation = online_evaluation(experiment)
    return Trainer(run, evaluation, checkpoints, process.SignalRecorder(), [RunLogger(run)])


def looped(experiment: Experiment, save_every: int) -> tuple[float, int]:
    """(seconds a step in the loop, saves), of all but the first; evaluation counts for nothing."""
    config = experiment.config.replace({"train.checkpoint_steps": save_every})
    experiment = dataclasses.replace(experiment, config=config)
    with tempfile.TemporaryDirectory() as folder, opened(folder) as checkpoints:
        from_the_start(folder, experiment, checkpoints).train()
        timings = pathlib.Path(folder) / "timings.jsonl"
        lines = [json.loads(line) for line in timings.read_text().splitlines()]
    seconds = sum(line["seconds"] for line in lines if line["step"] > 1)
    saves = (experiment.total_steps - 1) // save_every if save_every else 0
    return seconds / (experiment.total_steps - 1), saves


def begin(experiment: Experiment) -> TrainState:
    seed = experiment.config.train.seed
    state = train_state.init_state(experiment.method, experiment.optimizer, experiment.spec, seed)
    return spmd.replicate(state, experiment.mesh)


def opened(folder: str) -> Checkpoints:
    return Checkpoints(pathlib.Path(folder))
