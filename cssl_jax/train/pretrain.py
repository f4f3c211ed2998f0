"""A whole run, readable from top to bottom: data, parts, resume, steps, evaluation, results."""

import contextlib
import dataclasses
import json
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

import jax

from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.config import Config
from cssl_jax.data.cleaning.scan import write_rejected
from cssl_jax.data.sources.open import LABEL_RULES, absolute_spec
from cssl_jax.errors import InterruptedRunError, RunError, UserError
from cssl_jax.evaluate.evaluator import Checkpoint
from cssl_jax.experiment import builders
from cssl_jax.experiment.experiment import KERNELS, Parts, assemble
from cssl_jax.files import write_json
from cssl_jax.optim import optimizers
from cssl_jax.planning import exhaustion
from cssl_jax.registries import absolute_name
from cssl_jax.runtime import multihost, process
from cssl_jax.step.state import TrainState
from cssl_jax.train import run_dir
from cssl_jax.train.initial_state import first_state, untrained_of
from cssl_jax.train.intervals import Intervals
from cssl_jax.train.online import OnlineEvaluation, online_evaluation
from cssl_jax.train.profile import FOLDER as TRACES
from cssl_jax.train.profile import Profile
from cssl_jax.train.trainer import UNSCORED, Training, Watch

ORIGIN = "init"  # in a checkpoint's meta and in results.json: whose weights the run began with


def pretrain(
    config: Config,
    workdir: str | pathlib.Path,
    *,
    profile_steps: str = "",
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains an encoder into a run folder; on a folder with a run in it, goes on where it stopped.

    Several processes that do this together (``distributed.start``) compute what one would with all
    their devices; the first alone writes.

    Args:
        config: The run; see ``recipes.load``.
        workdir: Run folder: config.json, metrics.jsonl, timings.jsonl, checkpoints/, results.json.
        profile_steps: "FIRST:LAST", steps to trace into RUN/profile; "" is none.
        watch: Is given the epoch and figures of every online evaluation but the last, once they are
            saved; what it returns, unless "", is why the run ends there.

    Returns:
        The content of results.json.

    Raises:
        UserError: The config, the data or the folder do not fit each other.
        InterruptedRunError: A signal came; what was done is saved.
        StoppedRunError: ``watch`` ended the run; what was done is saved.
        RunError: The loss is not finite, devices differ, something could not be written, or
            another process is gone.
    """
    process.join("pretrain")
    run = pathlib.Path(workdir).expanduser().absolute()
    config, profile = multihost.run_on_all(
        lambda: (
            _with_absolute_paths(recipes.canonical(config)),
            Profile(run / TRACES, profile_steps if multihost.is_primary() else ""),
        )
    )
    multihost.require_same({"workdir": str(run), **recipes.facts(config)})
    multihost.run_on_all(lambda: run_dir.check(run, config))
    with process.catch_signals() as interruption, multihost.watched():
        try:
            with (
                _memory_explained(config, run),
                run_dir.while_running(run),
                run_dir.Claim(run) as claim,
            ):
                return _pretrain(config, run, claim, interruption, profile, watch)
        except InterruptedRunError as stopped:
            *_, name = str(stopped).split()
            if name not in signal.Signals.__members__:
                raise
            raise InterruptedRunError(  # before the first step, or after the last
                f"{name} outside the steps: nothing is lost; run the same command to go on"
            ) from None


@contextlib.contextmanager
def _memory_explained(config: Config, run: pathlib.Path) -> Iterator[None]:
    """Within it, memory that runs out is a RunError with the ways out."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not exhaustion.is_out_of_memory(error):
            raise
        if exhaustion.is_in_evaluation(error):
            raise RunError(exhaustion.evaluation_message(error, "--evaluate.batch-size")) from error
        saved = run_dir.has_checkpoint(run)
        raise RunError(exhaustion.training_message(config, error, saved=saved)) from error


def _pretrain(
    config: Config,
    run: pathlib.Path,
    claim: run_dir.Claim,
    interruption: process.Interruption,
    profile: Profile,
    watch: Watch | None,
) -> dict[str, Any]:
    def assembled() -> tuple[str | None, Parts, OnlineEvaluation]:
        with interruption.breakable():
            cache = process.set_compile_cache(config.runtime.compile_cache)
            parts = assemble(config)
            return cache, parts, online_evaluation(config, parts)

    cache, parts, evaluation = multihost.run_on_all(assembled)
    multihost.require_same(parts.facts)
    run_dir.begin(run, config, claim)
    regular = Intervals(config.train, parts.sampler.steps_per_epoch).regular
    with Checkpoints(run, keep=config.train.keep, regular=regular) as checkpoints:
        with interruption.breakable(shared=True):
            start, unscored = 0, False
            if checkpoints.latest:
                state, unscored = _resume(parts, checkpoints)
                parts = with_kernels_of(parts, checkpoints)
                start = int(state.step)
            else:
                state, origin = first_state(config, parts)
                parts.meta.update({ORIGIN: origin} if origin else {})
            run_dir.confirm(run, config)
            if rejected := {*parts.train.rejected, *parts.validation.rejected}:
                multihost.run_on_primary(lambda: write_rejected(run / "rejected.csv", rejected))
            _announce(config, run, parts, evaluation, cache, start)
            if not start:
                options = config.optimizer
                _say(
                    optimizers.describe_exclusions(
                        state.params,
                        options.exclude_norm_and_bias,
                        adapts=options.name == "lars",
                    )
                )
        figures = None
        if start < parts.total_steps or unscored:
            training = multihost.run_on_all(
                lambda: Training(
                    config,
                    run,
                    parts,
                    evaluation,
                    checkpoints,
                    interruption,
                    first=lambda: first_state(config, parts)[0],
                    state=state,
                    start=start,
                    unscored=unscored,
                    profile=profile,
                    watch=watch,
                )
            )
            state, figures = training.run()
        with interruption.breakable(shared=True):
            return _results(config, run, parts, evaluation, checkpoints, state, figures)


def _results(
    config: Config,
    run: pathlib.Path,
    parts: Parts,
    evaluation: OnlineEvaluation,
    checkpoints: Checkpoints,
    state: TrainState,
    figures: dict[str, Any] | None,
) -> dict[str, Any]:
    """Writes results.json, unless a finished run has it, and returns its content."""
    results_path = run / "results.json"
    if multihost.broadcast_from_primary(lambda: figures is None and results_path.is_file()):
        return json.loads(results_path.read_text())
    last = Checkpoint(parts.total_steps, state.model)
    best = _best(last, parts, checkpoints)
    results = {
        "config_hash": recipes.config_hash(config),
        "seed": config.train.seed,
        "skipped_steps": int(state.skipped[0]),
        "epochs": config.train.epochs,
        "source": config.data.source,
        "validation_source": config.data.validation_source or "held out of source",
        "split": {"train": len(parts.train), "validation": len(parts.validation)},
        "notes": list(dict.fromkeys((*parts.train.notes, *parts.validation.notes))),
        **{name: parts.meta[name] for name in (ORIGIN,) if name in parts.meta},
        **evaluation.evaluator.report(last, best, untrained_of(config, parts), figures=figures),
        "versions": process.versions(),
    }
    multihost.run_on_primary(lambda: write_json(results_path, results))
    return results


def _best(last: Checkpoint, parts: Parts, checkpoints: Checkpoints) -> Checkpoint:
    """The checkpoint that the evaluations during the run ranked first."""
    checkpoints.wait()  # the last one may be on its way to the disk
    step = checkpoints.best
    if step is None or step == last.step:
        return last
    return Checkpoint(step, checkpoints.restore_model(last.model, parts.mesh, step))


def _resume(parts: Parts, checkpoints: Checkpoints) -> tuple[TrainState, bool]:
    """The newest state of this very run, and whether its evaluation was broken off."""
    shapes = builders.state_shapes(parts.method, parts.optimizer, parts.spec)
    state, meta = checkpoints.resume(shapes, parts.mesh)
    for part, fingerprint in parts.meta["data"].items():
        if meta["data"][part] != fingerprint:
            raise UserError(
                f"the {part} images have changed since the run began: {meta['data'][part]}, now "
                f"{fingerprint}; restore them, or start from scratch in another --workdir"
            )
    for field, digest in parts.meta["code"].items():
        if meta.get("code", {}).get(field) != digest:
            raise UserError(
                f"the file of {field} has changed since the run began; restore it, or start from "
                "scratch in another --workdir"
            )
    if ORIGIN in meta:
        parts.meta[ORIGIN] = meta[ORIGIN]
    return state, meta.get(UNSCORED, False)


def with_kernels_of(parts: Parts, checkpoints: Checkpoints) -> Parts:
    """The parts with the host's kernels that the run began with: others round otherwise."""
    began = checkpoints.meta().get(KERNELS, "jax")
    pipeline = parts.pipeline.with_kernels(began)
    if pipeline.kernels != began:
        _say(
            "views       the run began with OpenCV, which is not installed here: from now on they "
            "differ in rounding; pip install opencv-python-headless simplejpeg"
        )
    parts.meta[KERNELS] = pipeline.kernels
    return dataclasses.replace(parts, pipeline=pipeline)


def _with_absolute_paths(config: Config) -> Config:
    """Paths that hold from any folder, so that the run can be evaluated from any."""
    data: dict[str, Any] = {
        name: absolute_spec(getattr(config.data, name)) for name in ("source", "validation_source")
    }
    adapt: dict[str, Any] = {
        name: absolute_spec(getattr(config.adapt, name)) for name in ("target", "target_validation")
    }
    if config.data.labels not in LABEL_RULES:
        data["labels"] = absolute_spec(config.data.labels)
    if config.adapt.target_labels not in LABEL_RULES:
        adapt["target_labels"] = absolute_spec(config.adapt.target_labels)
    method = dataclasses.replace(config.method, name=absolute_name(config.method.name))
    model = dataclasses.replace(config.model, encoder=absolute_name(config.model.encoder))
    init: dict[str, Any] = {"init": absolute_spec(config.train.init)} if config.train.init else {}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **data),
        adapt=dataclasses.replace(config.adapt, **adapt),
        train=dataclasses.replace(config.train, **init),
        method=method,
        model=model,
    )


# ------------------------------------------------------------------------------------------- words


def _announce(
    config: Config,
    run: pathlib.Path,
    parts: Parts,
    evaluation: OnlineEvaluation,
    cache: str | None,
    start: int,
) -> None:
    device = parts.mesh.devices.flat[0]
    rejected = len({*parts.train.rejected, *parts.validation.rejected})
    left_out = f"{rejected} left out (rejected.csv), " if rejected else ""
    shared = "" if multihost.is_single_process() else f" of {jax.process_count()} processes"
    judged = "by labels" if evaluation.evaluator.labelled else "without labels"
    _say(
        f"run       {run}" + (f" (resumed at step {start})" if start else "") + "\n"
        f"devices   {parts.mesh.size} x {device.device_kind}{shared}, {config.runtime.backend}\n"
        f"compiled  {cache or 'not kept'}\n"
        f"data      {config.data.source}: {len(parts.train)} to train on, "
        f"{len(parts.validation)} to validate on, {left_out}judged {judged}\n"
        f"input     {parts.input_reason}"
        + "".join(f"\nnote      {note}" for note in _notes(parts))
        + _origin(parts.meta.get(ORIGIN))
    )


def _notes(parts: Parts) -> list[str]:
    """What was read and what was not, of both splits, each once."""
    return list(dict.fromkeys((*parts.train.notes, *parts.validation.notes)))


def _origin(init: dict[str, Any] | None) -> str:
    if not init:
        return ""
    modules = " and ".join(init["modules"])
    return f"\nweights   {modules} of {init['run']}, step {init['step']}; the rest from the seed"


def _say(text: str) -> None:
    if multihost.is_primary():
        print(text, file=sys.stderr, flush=True)
