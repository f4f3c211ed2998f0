"""The views of a recipe, as its train step sees them: in a picture and in figures."""

import pathlib
from typing import Any

import jax
import numpy as np
import PIL.Image
from jax.sharding import Mesh

from cssl_jax import recipes
from cssl_jax.augment.image import contact_sheet, describe
from cssl_jax.config import Config
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.data.pipeline.host_draws import Work
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.view_log.parameters import view_parameters
from cssl_jax.data.view_log.writer import FOLDER, read_record
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders
from cssl_jax.files import existing_run
from cssl_jax.runtime import process, spmd

MOST = 64  # examples on a sheet


def draw_views(config: Config, *, step: int = 0, examples: int = 6) -> PIL.Image.Image:
    """Draws the first examples of one step's batch, their views, and what these underwent.

    The views are the ones that training by this config sees at that step: made by the same
    pipeline, from the same keys.

    Args:
        config: The run; see ``recipes.load``.
        step: From 0; ``metrics.jsonl`` counts from 1.
        examples: Rows of the sheet.

    Raises:
        UserError: The config and the data do not fit each other, or there is no such step.
    """
    config = recipes.canonical(config)
    most = min(MOST, config.train.batch_size)
    if not 1 <= examples <= most:
        raise UserError(
            f"{examples} examples; a sheet shows 1 to {most}"
            + (f", one batch (--train.batch-size {most})" if most < MOST else "")
        )
    process.set_compile_cache(config.runtime.compile_cache)
    pipeline, reason = builders.pipeline_alone(config, _one_device(), np.arange(examples))
    last = config.train.epochs * pipeline.sampler.steps_per_epoch - 1
    _check_steps(step, step + 1, last)
    views = _views(pipeline, step)
    drawn = {
        name: value[0] for name, value in view_parameters(pipeline.work)(step, step + 1).items()
    }
    rows = [_example(pipeline, _part(drawn, row), views[row]) for row in range(examples)]
    name = "/".join(pathlib.PurePath(config.data.source).parts[-2:])
    facts = (
        f"seed {config.train.seed}",
        f"the first {examples} of {config.train.batch_size} examples",
        f"views of {pipeline.size} px",
        f"pipeline {reason.partition(':')[0]}",
    )
    title, subtitle = f"{name}: views of step {step}", " · ".join(facts)
    return contact_sheet.draw_sheet(rows, title, subtitle)


def load_views(run: str | pathlib.Path | Config, start: int, stop: int) -> dict[str, np.ndarray]:
    """What every view of the steps [start, stop) of a run underwent, of the whole global batch.

    Read from what the run wrote (``train.record_views``), or else drawn again from its config: each
    draw is keyed by (seed, epoch, example, view), so that both are the same, and steps that are yet
    to come are known too. Drawing again takes the data (for the pictures' sizes), reading does not.

    Args:
        run: Run folder, or a config.
        start: First step, from 0; ``metrics.jsonl`` counts from 1.
        stop: One past the last.

    Returns:
        For s steps, N examples of k views: step int64 [s]; index int32 [s, N] in the training part;
        key uint32 [s, N, 2]; box int32 [s, N, k, 4] in pixels of the picture (top, left, height,
        width); and the parameters [s, N, k, ...] that ``augment.policy.sample`` documents.

    Raises:
        UserError: There is no such run or no such step, or the data are gone.
    """
    if isinstance(run, Config):
        config = recipes.canonical(run)
    else:
        folder = existing_run(run)
        if 0 <= start < stop and (found := read_record(folder / FOLDER, start, stop)):
            return found
        config = recipes.read_json(folder / "config.json")
    train, _ = builders.load_data(config)
    sampler = Sampler(len(train), config.train.batch_size, config.train.seed)
    _check_steps(start, stop, config.train.epochs * sampler.steps_per_epoch - 1)
    (count,) = builders.own_views(builders.make_method(config, _one_device())).values()
    work = Work(
        source=train,
        sampler=sampler,
        policy=config.augment,
        views=count,
        size=config.data.size,
        rows=np.arange(config.train.batch_size),
    )
    return view_parameters(work)(start, stop)


def _one_device() -> Mesh:
    return spmd.make_mesh(jax.devices()[:1])  # no draw depends on the others


def _check_steps(start: int, stop: int, last: int) -> None:
    if not 0 <= start < stop <= last + 1:
        asked = f"is no step {start}" if stop == start + 1 else f"are no steps [{start}, {stop})"
        raise UserError(f"there {asked} in this run; its steps are 0 to {last}")


def _views(pipeline: Pipeline, step: int) -> np.ndarray:
    """Of the pipeline's rows at one step: uint8 [rows, k, size, size, C]."""
    host_batches = pipeline.host_batches(step, step + 1)
    batch = jax.jit(pipeline.make_batch)(np.int32(step), pipeline.constants, next(host_batches))
    host_batches.close()
    (views,) = jax.device_get(batch["views"]).values()
    pixels = views * np.asarray(pipeline.std) + np.asarray(pipeline.mean)
    return np.rint(255 * pixels.clip(0.0, 1.0)).astype(np.uint8)


def _part(drawn: dict[str, Any], i: int) -> dict[str, Any]:
    return {name: value[i] for name, value in drawn.items() if np.ndim(value)}


def _example(pipeline: Pipeline, drawn: dict[str, Any], views: np.ndarray) -> contact_sheet.Example:
    source, policy, index = pipeline.source, pipeline.policy, int(drawn.pop("index"))
    del drawn["key"]
    pixels = source.image(index)
    shown = []
    for view, seen in enumerate(views):
        one = _part(drawn, view)
        shown.append(
            contact_sheet.View(
                pixels=seen,
                outline=describe.outline(one, size=pipeline.size, policy=policy),
                words=describe.describe(one, *pixels.shape, policy=policy),
            )
        )
    name = f"picture {index}" if source.names is None else pathlib.Path(source.names[index]).name
    return contact_sheet.Example(pixels, [name, f"{pixels.shape[1]} x {pixels.shape[0]} px"], shown)
