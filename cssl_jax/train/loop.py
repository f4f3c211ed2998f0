"""A whole run, readable from top to bottom: data, parts, resume, steps, evaluation, results."""

import json
import pathlib
import signal
import sys
import time
from collections.abc import Generator, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from cssl_jax import parallel, recipes, runtime
from cssl_jax.config import Config
from cssl_jax.data import pipeline as pipelines
from cssl_jax.data.sampler import Sampler
from cssl_jax.errors import RunError, UserError
from cssl_jax.evaluate.evaluator import Evaluator
from cssl_jax.train import optimizers, setup
from cssl_jax.train.checkpoints import Checkpoints
from cssl_jax.train.journal import Journal
from cssl_jax.train.metrics import write_json
from cssl_jax.train.state import TrainState
from cssl_jax.train.step import make_train_step


def pretrain(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Trains an encoder into a run folder; on a folder with a run in it, goes on where it stopped.

    Args:
        config: The run; see ``recipes.load``.
        workdir: Run folder: config.json, metrics.jsonl, timings.jsonl, checkpoints/, results.json.

    Returns:
        The content of results.json.

    Raises:
        UserError: The config, the data or the folder do not fit each other.
        RunError: The loss is no longer finite, a checkpoint could not be written, or a signal came.
    """
    config = recipes.canonical(config)
    run = pathlib.Path(workdir).expanduser().absolute()
    _check_folder(run, config)
    cache = runtime.set_compile_cache(config.runtime.compile_cache)
    mesh = runtime.make_mesh(config.runtime.devices)
    parallel.per_device_batch(config.train.batch_size, mesh)

    # ---------------------------------------------------------------------------------------- data
    train, validation = setup.load_data(config)
    spec = setup.input_spec(config, train)
    sampler = Sampler(len(train), config.train.batch_size, config.train.seed)
    name, reason = pipelines.choose(
        train,
        augment_on=config.data.augment_on,
        resident=config.data.resident,
        memory=runtime.device_memory(mesh.devices.flat[0]),
    )
    method = setup.make_method(config, mesh)
    pipeline = pipelines.build(
        name,
        reason,
        train,
        sampler,
        config.augment,
        views=method.views,
        size=spec.size,
        mean=spec.mean,
        std=spec.std,
        rows=parallel.process_rows(config.train.batch_size, mesh),
    )

    # --------------------------------------------------------------------------------------- parts
    optimizer, schedule, total_steps = setup.make_optimizer(config, sampler)
    state = setup.init_state(method, optimizer, spec, config.train.seed)
    untrained = parallel.replicate(_model(state), mesh)
    if config.train.init:
        state = _start_from(config.train.init, state, mesh)
    step = parallel.data_parallel(
        make_train_step(
            method,
            optimizer,
            schedule,
            pipeline.make_batch,
            total_steps=total_steps,
            axis_name=parallel.AXIS,
        ),
        mesh,
        config.runtime.backend,
    )
    evaluator = Evaluator(config, method.encoder, spec, train, validation, mesh)
    meta = {
        "config": recipes.to_dict(config),
        "input": vars(spec),
        "versions": runtime.versions(),
    }

    _write_config(run, config)  # only now: a refused config leaves no folder behind
    with Checkpoints(run, keep=config.train.keep) as checkpoints:
        start = checkpoints.latest or 0
        state = checkpoints.restore(state, mesh) if start else parallel.replicate(state, mesh)
        _announce(config, run, mesh, cache, pipeline, len(train), len(validation), start)
        if not start:
            options = config.optimizer
            _say(optimizers.describe_exclusions(state.params, options.exclude_norm_and_bias))

        # ---------------------------------------------------------------------------------- steps
        journal = Journal(run, config, sampler, start, total_steps)
        constants = parallel.replicate(pipeline.constants, mesh)
        feeds = _placed_feeds(pipeline, start, total_steps, mesh, config.runtime.backend)
        done = start
        with journal, runtime.catch_signals() as interruption:
            for done, (feed, wait) in enumerate(_timed(feeds), start + 1):
                state, metrics = step(state, constants, feed)
                journal.add(done, metrics, wait)
                scores: dict[str, float] = {}
                if _due(done, config.train.evaluate_every, sampler, total_steps):
                    journal.flush()
                    scores = evaluator.online(_model(state))
                    journal.scores(done, scores)
                last = done == total_steps
                stopped = interruption.signal_number is not None
                if last or stopped or _due(done, config.train.checkpoint_every, sampler, 0):
                    journal.flush()
                    checkpoints.save(state, meta, scores)
                if stopped and not last:
                    break
            feeds.close()
        if done < total_steps and interruption.signal_number is not None:
            name = signal.Signals(interruption.signal_number).name
            raise RunError(
                f"{name} at step {done} of {total_steps}: saved; run the same command to go on"
            )

    # ------------------------------------------------------------------------------------- results
    results_path = run / "results.json"
    if start == total_steps and results_path.is_file():
        return json.loads(results_path.read_text())
    results = {
        "config_hash": recipes.config_hash(config),
        "seed": config.train.seed,
        "step": total_steps,
        "epochs": config.train.epochs,
        "source": config.data.source,
        "validation_source": config.data.validation_source or "held out of source",
        "split": {"train": len(train), "validation": len(validation)},
        **evaluator.final(_model(state), untrained),
        "versions": runtime.versions(),
    }
    write_json(results_path, results)
    return results


# -------------------------------------------------------------------------------------------- parts


def _check_folder(run: pathlib.Path, config: Config) -> None:
    """Makes sure that the folder is new, empty, or this config's run."""
    path = run / "config.json"
    if path.is_file():
        changed = recipes.differences(recipes.read_json(path), config)
        if changed:
            raise UserError(
                f"{run} holds a run with another config; use another --workdir, or undo:\n  "
                + "\n  ".join(changed)
            )
    elif run.exists() and not (run.is_dir() and not any(run.iterdir())):
        raise UserError(f"{run} is not empty and holds no run; use another --workdir")


def _write_config(run: pathlib.Path, config: Config) -> None:
    path = run / "config.json"
    if path.is_file():
        return
    try:
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(recipes.to_json(config))
    except OSError as error:
        raise UserError(
            f"cannot write to {run}: {error.strerror}; use another --workdir"
        ) from error


def _model(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "model_state": state.model_state}


def _start_from(folder: str, state: TrainState, mesh: Mesh) -> TrainState:
    with Checkpoints(pathlib.Path(folder).expanduser(), read_only=True) as checkpoints:
        checkpoints.meta()  # refuses a folder without a checkpoint
        try:
            loaded = checkpoints.restore_model(_model(state), mesh)
        except ValueError as error:
            raise UserError(
                f"train.init {folder} holds other parameters than this model's; give a run "
                f"with the same model.* fields: {error}"
            ) from error
    return state.replace(**loaded)


def _placed_feeds(
    pipeline: pipelines.Pipeline, start: int, stop: int, mesh: Mesh, backend: str
) -> Generator[Any]:
    """Each step's input on the devices; for resident data one transfer serves them all."""
    feeds = pipeline.feeds(start, stop)
    if not pipeline.constant_feed:
        return pipelines.prefetch(feeds, lambda feed: parallel.put_batch(feed, mesh, backend))
    placed = None

    def repeat() -> Generator[Any]:
        nonlocal placed
        for feed in feeds:
            if placed is None:
                placed = parallel.put_batch(feed, mesh, backend)
            yield placed

    return repeat()


def _timed(items: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    while True:
        start = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, time.perf_counter() - start


def _due(step: int, every_epochs: int, sampler: Sampler, total_steps: int) -> bool:
    """At the end of every so many epochs; the last step is left to the final evaluation."""
    interval = every_epochs * sampler.steps_per_epoch
    return interval > 0 and step % interval == 0 and step != total_steps


def _announce(
    config: Config,
    run: pathlib.Path,
    mesh: Mesh,
    cache: str | None,
    pipeline: pipelines.Pipeline,
    train: int,
    validation: int,
    start: int,
) -> None:
    device = mesh.devices.flat[0]
    _say(
        f"run       {run}" + (f" (resumed at step {start})" if start else "") + "\n"
        f"devices   {mesh.size} x {device.device_kind}, {config.runtime.backend}\n"
        f"compiled  {cache or 'not kept'}\n"
        f"data      {config.data.source}: {train} to train on, {validation} to validate on\n"
        f"input     {pipeline.name}: {pipeline.reason}"
    )


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
