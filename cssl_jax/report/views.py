"""Views as the train step of a run sees them: drawn on a sheet, or as augmentation parameters."""

import dataclasses
import pathlib
from typing import Any, cast

import jax
import numpy as np
import PIL.Image
from jax.sharding import Mesh

from cssl_jax import recipes
from cssl_jax.augment.image import contact_sheet, describe
from cssl_jax.augment.view_group import number_groups
from cssl_jax.config import Config
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import Images
from cssl_jax.data.view_log.parameters import view_parameters
from cssl_jax.data.view_log.writer import FOLDER, read_view_log
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders, data_splits, input_pipeline
from cssl_jax.files import existing_run
from cssl_jax.modalities.base import require_images
from cssl_jax.runtime import process, spmd

MAX_EXAMPLES = 64  # maximum number of examples on a sheet


def draw_views(config: Config, *, step: int = 0, examples: int = 6) -> PIL.Image.Image:
    """Draws the first examples of one step's batch, their views, and the augmentations applied.

    The views are identical to those that a run with this config sees at that step: the same
    pipeline computes them from the same random keys.

    Args:
        config: Config of the run; see ``recipes.load``.
        step: Step, counted from 0; ``metrics.jsonl`` counts from 1.
        examples: Number of examples, one per row of the sheet.

    Returns:
        RGB image of the sheet.

    Raises:
        UserError: The config and the data do not fit each other, the run has no such step, or
            ``examples`` is out of range.
    """
    config = recipes.canonical(config)
    limit = min(MAX_EXAMPLES, config.train.batch_size)
    if not 1 <= examples <= limit:
        raise UserError(
            f"{examples} examples; a sheet shows 1 to {limit}"
            + (f", one batch (--train.batch-size {limit})" if limit < MAX_EXAMPLES else "")
        )
    require_images(data_splits.modality_of(config), "a sheet of views")
    process.set_compile_cache(config.runtime.compile_cache)
    pipeline, reason = input_pipeline.pipeline_alone(config, _one_device(), np.arange(examples))
    last = config.train.epochs * pipeline.sampler.steps_per_epoch - 1
    _check_steps(step, step + 1, last)
    views = _views(pipeline, step)
    drawn = {name: _drawn(pipeline, name, step) for name in pipeline.groups}
    rows = []
    for row in range(examples):
        parameters = {name: _select(values, row) for name, values in drawn.items()}
        pixels = {name: values[row] for name, values in views.items()}
        rows.append(_example(pipeline, parameters, pixels))
    name = "/".join(pathlib.PurePath(config.data.source).parts[-2:])
    sizes = dict.fromkeys(str(group.size) for group in pipeline.groups.values())
    facts = (
        f"seed {config.train.seed}",
        f"the first {examples} of {config.train.batch_size} examples",
        f"views of {' and '.join(sizes)} px",
        f"pipeline {reason.partition(':')[0]}",
    )
    title, subtitle = f"{name}: views of step {step}", " · ".join(facts)
    return contact_sheet.draw_sheet(rows, title, subtitle)


def load_views(run: str | pathlib.Path | Config, start: int, stop: int) -> dict[str, np.ndarray]:
    """Returns the augmentation parameters of all views in the steps [start, stop) of a run.

    The parameters cover the whole global batch. They are read from the run's log
    (``train.record_views``) if it has the steps, and drawn again from the config otherwise. Both
    give the same values, since the key of each draw is derived from (seed, epoch, example, view).
    Future steps can therefore be drawn too. Drawing needs the data, for the sizes of the images;
    reading the log does not.

    Args:
        run: Run folder, or the config of a run.
        start: First step, counted from 0; ``metrics.jsonl`` counts from 1.
        stop: Step after the last one.

    Returns:
        Arrays by name, for s steps, N examples per step and k views per example: "step", int64
        [s]; "index", example index in the training split, int32 [s, N]; "key", uint32 [s, N, 2];
        "box", crop (top, left, height, width) in pixels of the image, int32 [s, N, k, 4]; and the
        parameters [s, N, k, ...] that ``augment.policy.sample`` documents. These are the names of
        the method's first view group; those of another group begin with its name and a slash.

    Raises:
        UserError: The folder is no run folder, the run has no such step, or the data cannot be
            found.
    """
    if isinstance(run, Config):
        config = recipes.canonical(run)
    else:
        folder = existing_run(run)
        if 0 <= start < stop and (recorded := read_view_log(folder / FOLDER, start, stop)):
            return recorded
        config = recipes.read_json(folder / "config.json")
    require_images(data_splits.modality_of(config), "a log of views")
    train, _ = data_splits.load_data(config)
    sampler = Sampler(len(train), config.train.batch_size, config.train.seed)
    _check_steps(start, stop, config.train.epochs * sampler.steps_per_epoch - 1)
    views = input_pipeline.own_views(builders.make_method(config, _one_device()))
    data: Any = config.data
    job = ViewJob(
        source=cast(Images, train),
        sampler=sampler,
        groups=number_groups(views, size=data.size, policy=config.augment),
        rows=np.arange(config.train.batch_size),
    )
    return view_parameters(job)(start, stop)


def _one_device() -> Mesh:
    return spmd.make_mesh(jax.devices()[:1])  # draws do not depend on the number of devices


def _check_steps(start: int, stop: int, last: int) -> None:
    if not 0 <= start < stop <= last + 1:
        missing = f"is no step {start}" if stop == start + 1 else f"are no steps [{start}, {stop})"
        raise UserError(f"there {missing} in this run; its steps are 0 to {last}")


def _drawn(pipeline: Pipeline, group: str, step: int) -> dict[str, Any]:
    """Augmentation parameters of one group's views at one step, leaves [rows, ...]."""
    job = dataclasses.replace(pipeline.view_job, groups={group: pipeline.groups[group]})
    return {name: value[0] for name, value in view_parameters(job)(step, step + 1).items()}


def _views(pipeline: Pipeline, step: int) -> dict[str, np.ndarray]:
    """Computes the views of the pipeline's rows at one step, uint8 [rows, k, s, s, C] by group."""
    host_batches = pipeline.host_batches(step, step + 1)
    batch = jax.jit(pipeline.make_batch)(np.int32(step), pipeline.constants, next(host_batches))
    host_batches.close()
    spec: Any = pipeline.spec

    def to_pixels(views: np.ndarray) -> np.ndarray:
        pixels = views * np.asarray(spec.std) + np.asarray(spec.mean)
        grey_levels: np.ndarray = np.rint(255 * pixels.clip(0.0, 1.0))
        return grey_levels.astype(np.uint8)

    return {name: to_pixels(x) for name, x in jax.device_get(batch["views"]).items()}


def _select(drawn: dict[str, Any], i: int) -> dict[str, Any]:
    """Entry ``i`` of every array's first axis; scalars are dropped."""
    return {name: value[i] for name, value in drawn.items() if np.ndim(value)}


def _example(
    pipeline: Pipeline, drawn: dict[str, dict[str, Any]], views: dict[str, np.ndarray]
) -> contact_sheet.Example:
    """One example with the parameters and pixels of its views, both by group."""
    source: Any = pipeline.source
    (index,) = {int(parameters["index"]) for parameters in drawn.values()}
    pixels = source.image(index)
    drawn_views = []
    for name, group in pipeline.groups.items():
        # One index and one key per example; all other parameters have a view axis.
        of_views = {k: value for k, value in drawn[name].items() if k not in ("index", "key")}
        for view, view_pixels in enumerate(views[name]):
            parameters = _select(of_views, view)
            drawn_views.append(
                contact_sheet.View(
                    pixels=view_pixels,
                    outline=describe.outline(parameters, size=group.size, policy=group.policy),
                    description=describe.describe(parameters, *pixels.shape, policy=group.policy),
                )
            )
    name = f"image {index}" if source.names is None else pathlib.Path(source.names[index]).name
    size = f"{pixels.shape[1]} x {pixels.shape[0]} px"
    return contact_sheet.Example(pixels, [name, size], drawn_views)
