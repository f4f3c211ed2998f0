"""Pipelines that make SimCLR's two views of photos: their pace and memory in one process."""

import dataclasses
import importlib
import importlib.metadata
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from measuring import process

LABELS = {
    "tf": "tf.data, whole policy",
    "tf-bicubic": "tf.data, whole, bicubic",
    "tf-split": "tf.data, split",
    "threads": "threads, whole policy",
    "threads-split": "threads, split",
    "plain": "plain tf.data, whole",
    "opencv": "OpenCV by hand, whole",
    "opencv-split": "OpenCV by hand, split",
    "albumentations": "albumentations, DataLoader",
    "lightly": "lightly, DataLoader",
}
PEERS = ("albumentations", "lightly")  # measured by an interpreter that has torch
OURS = ("tf", "tf-bicubic", "tf-split", "threads", "threads-split")
VIEWS = 2
WARM_UP = 8  # batches, more than any of them makes ahead
STEPS = 2**30
WORKERS = 2  # of the DataLoader

Batches = Iterator[Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """What every contender makes.

    Attributes:
        photos: Folder of JPEGs.
        policy: Fields of ``ImagePolicy`` that differ from its defaults.
        size: Side of a view in pixels.
        examples: A batch.
    """

    photos: str
    policy: dict[str, Any]
    size: int
    examples: int

    @property
    def files(self) -> list[str]:
        """Their paths, in order."""
        return sorted(str(path) for path in pathlib.Path(self.photos).glob("*.jpg"))


def pace(contender: str, task: dict, seconds: float, imports: tuple[str, ...] = ()) -> dict:
    """Pace and memory of one contender in this process.

    Args:
        contender: Key of LABELS.
        task: Fields of ``Task``.
        seconds: Batches are taken for so long, after WARM_UP.
        imports: Modules that the contender's environment needs to have imported first.

    Returns:
        ``views_s``; ``cpu_ms``, CPU time of this process per view; ``memory_bytes``, growth of the
        process's peak over what libraries and the list of photos take (both mean nothing where
        work is done by processes of its own); ``versions``.
    """
    start_batches, versions = _started(contender, task, imports)
    baseline = process.resident_bytes()
    process.reset_peak()
    batches = start_batches()
    for _ in range(WARM_UP):
        next(batches)
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while not count or time.perf_counter() - start < seconds:
        next(batches)
        count += 1
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    views = count * task["examples"] * VIEWS
    return {
        "views_s": views / elapsed,
        "cpu_ms": 1e3 * cpu / views,
        "batches": count,
        "memory_bytes": process.peak_bytes() - baseline,
        "baseline_bytes": baseline,
        "versions": versions,
    }


def growth(contender: str, task: dict, early: int, late: int) -> dict:
    """Resident bytes of the process once ``early`` and once ``late`` batches are made."""
    start_batches, _ = _started(contender, task, ())
    batches = start_batches()
    sizes = {}
    for number in range(1, late + 1):
        next(batches)
        if number in (early, late):
            sizes[number] = process.resident_bytes()
    return {"early_bytes": sizes[early], "late_bytes": sizes[late]}


def _started(
    contender: str, task: dict, imports: tuple[str, ...]
) -> tuple[Callable[[], Batches], dict[str, str]]:
    for name in imports:
        importlib.import_module(name)
    start, packages = BUILDERS[contender](contender, Task(**task))
    return start, {name: importlib.metadata.version(name) for name in packages}


def _ours(contender: str, task: Task) -> tuple[Callable[[], Batches], tuple[str, ...]]:
    import numpy as np

    from cssl_jax.augment.image.policy import ImagePolicy
    from cssl_jax.augment.view_group import SizedGroup
    from cssl_jax.config.images import ImageOptions
    from cssl_jax.data.input_spec import ImageSpec
    from cssl_jax.data.pipeline.registry import PIPELINES
    from cssl_jax.data.sampler import Sampler
    from cssl_jax.data.sources.open import load_source
    from cssl_jax.modalities.image import IMAGE

    engine = contender.partition("-")[0]
    kernel = {"interpolation": "bicubic"} if contender.endswith("-bicubic") else {}
    policy = ImagePolicy(**{**task.policy, **kernel})
    source = load_source(task.photos, ImageOptions(in_memory=False))
    pipeline = PIPELINES[contender.removesuffix("-bicubic")](
        source=source,
        sampler=Sampler(len(source), task.examples, seed=0),
        groups={"main": SizedGroup(count=VIEWS, size=task.size, policy=policy)},
        spec=ImageSpec(task.size, 3, (0.0,) * 3, (1.0,) * 3),
        modality=IMAGE,
        rows=np.arange(task.examples),
    )
    importlib.import_module(f"cssl_jax.data.pipeline.{engine}")  # before memory is noted
    packages = ("cssl_jax", "jax", "tensorflow" if engine == "tf" else "pillow")
    return lambda: pipeline.host_batches(0, STEPS), packages


def _plain(contender: str, task: Task) -> tuple[Callable[[], Batches], tuple[str, ...]]:
    from input import plain

    return lambda: plain.batches(task.files, task.policy, task.size, task.examples), ("tensorflow",)


def _by_hand(contender: str, task: Task) -> tuple[Callable[[], Batches], tuple[str, ...]]:
    from input import by_hand

    def start() -> Batches:
        return by_hand.batches(
            task.files,
            task.policy,
            task.size,
            task.examples,
            threads=len(os.sched_getaffinity(0)),
            whole=contender == "opencv",
        )

    return start, ("opencv-python-headless", "simplejpeg")


def _albumentations(contender: str, task: Task) -> tuple[Callable[[], Batches], tuple[str, ...]]:
    import albumentations
    import cv2
    import torch

    kernel = cv2.INTER_AREA if task.policy.get("antialias", True) else cv2.INTER_LINEAR
    side, files = (task.size, task.size), task.files
    transform = albumentations.Compose(
        [
            albumentations.RandomResizedCrop(side, scale=(0.08, 1.0), interpolation=kernel),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
            albumentations.ToGray(p=0.2),
            albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=0.5),
        ]
    )

    class Photos(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> list[torch.Tensor]:
            photo = cv2.imread(files[index % len(files)], cv2.IMREAD_COLOR_RGB)
            return [torch.from_numpy(transform(image=photo)["image"]) for _ in range(VIEWS)]

    loader = torch.utils.data.DataLoader(Photos(), batch_size=task.examples, num_workers=WORKERS)
    packages = ("torch", "albumentations", "opencv-python-headless")
    return lambda: itertools.chain.from_iterable([loader]), packages


def _lightly(contender: str, task: Task) -> tuple[Callable[[], Batches], tuple[str, ...]]:
    import PIL.Image
    import torch
    from lightly.transforms import SimCLRTransform

    transform, files = SimCLRTransform(input_size=task.size), task.files

    class Photos(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> list[torch.Tensor]:
            with PIL.Image.open(files[index % len(files)]) as photo:
                return transform(photo.convert("RGB"))

    loader = torch.utils.data.DataLoader(Photos(), batch_size=task.examples, num_workers=WORKERS)
    return lambda: itertools.chain.from_iterable([loader]), ("torch", "lightly")


BUILDERS = {
    **dict.fromkeys(OURS, _ours),
    **dict.fromkeys(("opencv", "opencv-split"), _by_hand),
    "plain": _plain,
    "albumentations": _albumentations,
    "lightly": _lightly,
}
