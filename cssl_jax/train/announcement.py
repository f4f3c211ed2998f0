"""What a run prints about itself before its first step."""

import jax

from cssl_jax.experiment.train_state import TEACHER
from cssl_jax.optim import exclusions
from cssl_jax.optim.registry import optimizer_entry
from cssl_jax.runtime import multihost
from cssl_jax.train.hooks import Run
from cssl_jax.train.online import OnlineEvaluation
from cssl_jax.train.resume import ORIGIN


def announce(run: Run, evaluation: OnlineEvaluation, cache: str | None) -> None:
    """Prints folder, devices, data, input and, at the first start, what weight decay applies to.

    Args:
        run: The run before its first step of this process.
        evaluation: Evaluators of the model.
        cache: Folder of compiled programs; None without one.
    """
    experiment = run.experiment
    device = experiment.mesh.devices.flat[0]
    rejected = len({*experiment.train.rejected, *experiment.validation.rejected})
    excluded = f"{rejected} excluded (rejected.csv), " if rejected else ""
    shared = "" if multihost.is_single_process() else f" of {jax.process_count()} processes"
    how = "by labels" if evaluation.evaluator.labelled else "without labels"
    notes = list(dict.fromkeys((*experiment.train.notes, *experiment.validation.notes)))
    run.say(
        f"run       {run.folder}" + (f" (resumed at step {run.step})" if run.step else "") + "\n"
        f"devices   {experiment.mesh.size} x {device.device_kind}{shared}, "
        f"{run.config.runtime.backend}\n"
        f"compiled  {cache or 'not kept'}\n"
        f"data      {run.config.data.source}: {len(experiment.train)} to train on, "
        f"{len(experiment.validation)} to validate on, {excluded}evaluated {how}\n"
        f"input     {experiment.input_reason}"
        + "".join(f"\nnote      {note}" for note in notes)
        + _origin(run)
        + _teacher(run)
    )
    if not run.step:
        options = run.config.optimizer
        run.say(
            exclusions.describe_exclusions(
                run.state.params,
                options.exclude_norm_and_bias,
                adapts=optimizer_entry(options.name).trust_ratios,
            )
        )


def _teacher(run: Run) -> str:
    teacher = run.experiment.meta.get(TEACHER)
    return f"\nteacher   {teacher['run']}, step {teacher['step']}" if teacher else ""


def _origin(run: Run) -> str:
    init = run.experiment.meta.get(ORIGIN)
    if not init:
        return ""
    modules = " and ".join(init["modules"])
    note = f"\nnote      {init['note']}" if "note" in init else ""
    where = f"{init['run']}, step {init['step']}"
    if "branch" in init:
        where = f"{init['file']}, {init['branch']}"
    return f"\nweights   {modules} of {where}; the rest from the seed{note}"
