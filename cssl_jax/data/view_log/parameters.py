"""What every view of some steps undergoes: drawn again from (seed, step), with no pixel read."""

from collections.abc import Callable

import numpy as np

from cssl_jax.data.pipeline import host_draws
from cssl_jax.data.pipeline.host_draws import Drawn, Work

# What the box was made from, and what is made from it: the box says it all.
_BY_THE_BOX = ("crop_area", "crop_log_ratio", "crop_y", "crop_x", "halvings", "reduced_box")


def view_parameters(work: Work) -> Callable[[int, int], dict[str, np.ndarray]]:
    """Compiles (start, stop) -> parameters of the steps [start, stop), s of them.

    Every draw is keyed by (seed, epoch, example, view), so this is what the train step applies, in
    whatever order and wherever it is made; on other devices floats may differ in the last bit.

    Args:
        work: Whose ``rows`` r, ``views`` k, policy, order and sizes count; no image is read.

    Returns:
        A function that gives step int64 [s], from 0; index int32 [s, r] in the training part; key
        uint32 [s, r, 2]; box int32 [s, r, k, 4] in pixels (top, left, height, width); and [s, r, k,
        ...] what ``augment.policy.sample`` documents, but for the candidates of the crop.
        Saturation, hue and grayscale are drawn for images without 3 channels too, not applied.
    """

    def needed(drawn: Drawn) -> Drawn:
        return {name: value for name, value in drawn.items() if name not in _BY_THE_BOX}

    draw = host_draws.draws(work, needed)

    def of_steps(start: int, stop: int) -> dict[str, np.ndarray]:
        steps = []
        for step in range(start, stop):
            index, key = work.sampler.draw(step, work.rows)
            drawn = draw(index, key)
            steps.append({"step": np.int64(step), "index": index, "key": key, **drawn})
        return {name: np.stack([one[name] for one in steps]) for name in steps[0]}

    return of_steps
