"""Reconstructs the augmentation parameters of all views of a step from (seed, step) alone."""

from collections.abc import Callable

import numpy as np

from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.data.pipeline import host_draws
from cssl_jax.data.pipeline.host_draws import Drawn, ViewJob

# Inputs and derived values of the box, which are redundant once the box is known.
_REDUNDANT = ("crop_area", "crop_log_ratio", "crop_y", "crop_x", "reduced_box")


def view_parameters(job: ViewJob) -> Callable[[int, int], dict[str, np.ndarray]]:
    """Compiles the function that gives the augmentation parameters of a range of steps.

    Every draw is derived from (seed, epoch, example, view). The result is therefore what the
    training step applies, wherever and in whatever order the views are made. Floats may differ in
    the last bit on other devices.

    Args:
        job: Description of the views: ``rows`` (r), groups of k views, order and image sizes. No
            image is read.

    Returns:
        A function (start, stop) -> parameters of the s steps in [start, stop): step int64 [s], from
        0; index int32 [s, r] in the training split; key uint32 [s, r, 2]; box int32 [s, r, k, 4] in
        pixels (top, left, height, width); and [s, r, k, ...] the entries that
        ``augment.policy.sample`` documents, except for the crop candidates. For images without 3
        channels, saturation, hue and grayscale are drawn but not applied. These are the names of
        the first group; those of another group begin with its name and a slash.

    Raises:
        UserError: JAX runs without its CPU backend.
    """

    def drop_redundant(group: SizedGroup, drawn: Drawn) -> Drawn:
        return {name: value for name, value in drawn.items() if name not in _REDUNDANT}

    draw = host_draws.draws(job, drop_redundant)
    first, *others = job.groups
    prefixes = {first: "", **{name: f"{name}/" for name in others}}

    def parameters_of_steps(start: int, stop: int) -> dict[str, np.ndarray]:
        steps = []
        for step in range(start, stop):
            index, key = job.sampler.draw(step, job.rows)
            _, drawn = draw(index, key)
            named = {
                prefixes[group] + name: value
                for group, values in drawn.items()
                for name, value in values.items()
            }
            steps.append({"step": np.int64(step), "index": index, "key": key, **named})
        return {name: np.stack([step[name] for step in steps]) for name in steps[0]}

    return parameters_of_steps
