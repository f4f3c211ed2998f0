"""Views made by OpenCV, for both host backends (tf.data and threads), if OpenCV is installed."""

import importlib.util
from collections.abc import Callable

import numpy as np

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.data.pipeline.host_draws import Drawn, ViewJob
from cssl_jax.data.pipeline.rendering.render import parameters_of
from cssl_jax.data.pipeline.rendering.resizer import Resizer

# Function (examples int [n], halvings int [n], drawn, out) that writes the views of n examples to
# ``out``, uint8 [n, count, size, size, C] by group. ``drawn`` has by group what ``render.pack``
# gives: box int [n, count, 4] and vector float32 [n, count, K].
Paint = Callable[[np.ndarray, np.ndarray, dict[str, Drawn], dict[str, np.ndarray]], None]
DECODED = 2**24  # bytes that each worker reserves for a decoded image; larger images are allocated
TASK_EXAMPLES = 8  # examples per task, which spreads the cost of the queue over several examples


def installed() -> bool:
    """True if OpenCV is installed."""
    return importlib.util.find_spec("cv2") is not None


def kernels(policy: ImagePolicy, channels: int, *, whole: bool) -> str:
    """Chooses the library that makes views on this host.

    Args:
        policy: Augmentation policy.
        channels: Number of image channels; OpenCV handles up to 4.
        whole: True if the host applies the whole policy, which may include an affine map.

    Returns:
        "opencv" if OpenCV is installed and computes the policy exactly, else "jax".
    """
    if channels > 4 or not installed():
        return "jax"
    from cssl_jax.augment.image import opencv

    return "opencv" if opencv.EXACT_AFFINE or not (whole and policy.uses("affine")) else "jax"


def painter(job: ViewJob) -> Paint:
    """Builds the function that reads examples and writes their views, rounded to uint8.

    Several threads may call the function at the same time; each call has buffers of its own.

    Args:
        job: Description of the views.
    """
    parameters = {name: parameters_of(group.policy) for name, group in job.groups.items()}
    # Workers that no call uses at present. ``threading.local`` would not do: TensorFlow's threads
    # lose their Python state after every call, and new buffers cost a third of a view's time.
    idle: list[_Worker] = []

    def worker() -> _Worker:
        try:
            return idle.pop()
        except IndexError:
            channels = job.source.channels
            painters = {
                name: _ViewPainter(group, channels, parameters[name] if job.whole else None)
                for name, group in job.groups.items()
            }
            return np.empty(DECODED, np.uint8), painters

    def paint(
        examples: np.ndarray,
        halvings: np.ndarray,
        drawn: dict[str, Drawn],
        out: dict[str, np.ndarray],
    ) -> None:
        decoded, painters = borrowed = worker()
        for number, example in enumerate(examples):
            image = job.source.image(int(example), int(halvings[number]), decoded)
            for name, paint_views in painters.items():
                boxes, vectors = drawn[name]["box"][number], drawn[name]["vector"][number]
                paint_views(image, boxes, vectors, out[name][number])
        idle.append(borrowed)

    return paint


class _ViewPainter:
    """Paints the views of one group, in buffers that it reuses; one thread may use it at a time.

    Args:
        group: Group of the views.
        channels: Number of image channels.
        parameters: Function from a vector to the parameters of a view; None to only crop and
            resize.
    """

    def __init__(
        self,
        group: SizedGroup,
        channels: int,
        parameters: Callable[[np.ndarray], Drawn] | None,
    ) -> None:
        from cssl_jax.augment.image.opencv import Canvas

        self._canvas = Canvas(group.policy, group.size, channels)
        self._resizer, self._parameters = Resizer(group.policy), parameters

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, vectors: np.ndarray, out: np.ndarray
    ) -> None:
        """Writes the views of an image uint8 [h, w, C] to ``out``, uint8 [count, s, s, C]."""
        canvas = self._canvas
        drawn = zip(boxes.tolist(), vectors, out, strict=True)
        for (top, left, height, width), vector, view in drawn:
            self._resizer(image[top : top + height, left : left + width], canvas.pixels)
            if self._parameters is None:
                canvas.write(view)
            else:
                view_parameters = self._parameters(vector)
                canvas.finish(view_parameters)
                canvas.write(view, view_parameters)


# Buffer for a decoded image, and the painters by group.
_Worker = tuple[np.ndarray, dict[str, _ViewPainter]]
