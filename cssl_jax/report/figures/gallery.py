"""Image content of a report: features, maps, neighbours, confusion matrices and views."""

import dataclasses
import pathlib

import numpy as np
import PIL.Image

from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.data.sources.base import Source, seeded_subset
from cssl_jax.errors import RunError, UserError
from cssl_jax.evaluate.encoders.load import Encoder, load_encoder
from cssl_jax.evaluate.protocols.knn import nearest
from cssl_jax.evaluate.protocols.linear import standardiser
from cssl_jax.evaluate.solvers.logistic import fit_logistic
from cssl_jax.experiment import data_splits
from cssl_jax.modalities.base import Modality
from cssl_jax.modalities.image import IMAGE
from cssl_jax.report.escape import printable
from cssl_jax.report.figures import projections
from cssl_jax.report.figures.thumbnails import Sprite, make_sprite
from cssl_jax.report.run_reader import RunFolder
from cssl_jax.runtime import process

IMAGES = 10_000  # default maximum number of embedded images
MAX_IMAGES = 100_000  # a page with more images is too large for a browser
NEIGHBOURS, QUERIES, EXAMPLES = 8, 12, 4
PROBE_L2 = 1e-3  # L2 penalty of the confusion matrix's probe if results.json has none


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A confusion matrix.

    Attributes:
        counts: Number of images, int [C, C]; rows are true classes, columns predicted classes.
        origin: Description of the classifier and the images behind the counts.
    """

    counts: np.ndarray
    origin: str


@dataclasses.dataclass
class Gallery:
    """Validation images (all, or a seeded subset) and their features by a run's encoder.

    Attributes:
        step: Step of the checkpoint.
        source: Images of the gallery, n of them.
        total: Number of images in the whole validation split.
        features: Features of the images, float32 [n, D].
        names: Printable name per image; of a text its beginning.
        classes: Printable name per class; empty without labels.
        environment: Machine and package versions of the run, as stored in the checkpoint.
        seed: Seed of the maps and of the choice of queries.
        modality: Modality of the examples.
    """

    step: int
    source: Source
    total: int
    features: np.ndarray
    names: list[str]
    classes: list[str]
    environment: dict[str, str]
    seed: int
    modality: Modality = IMAGE

    def __len__(self) -> int:
        return len(self.source)

    @property
    def labels(self) -> np.ndarray | None:
        """Label per image, int64 [n], -1 for an unlabelled image; None without any labels."""
        return self.source.labels if self.classes else None

    def sprite(self) -> Sprite:
        """Builds a sprite with the thumbnails of all images."""
        return make_sprite(self.source, self.modality)

    def map(self, kind: str) -> np.ndarray:
        """Computes coordinates float64 [n, 2] of a kind of map; see ``projections.project``."""
        return projections.project(self.features, kind, seed=self.seed)

    def neighbours(self) -> np.ndarray:
        """Indices of the nearest images per image, int64 [n, min(8, n - 1)], nearest first."""
        return nearest(self.features, min(NEIGHBOURS, len(self) - 1))

    def queries(self) -> np.ndarray:
        """Indices of up to 12 images whose neighbours are shown.

        The choice is random with the gallery's seed and covers as many classes as possible.
        """
        order = permute(np.arange(len(self)), epoch_key(self.seed, 1), len(self))
        if self.labels is None:
            return np.sort(order[:QUERIES])
        _, first = np.unique(self.labels[order], return_index=True)
        rest = np.setdiff1d(np.arange(len(order)), first)
        chosen = order[np.concatenate([np.sort(first), rest])[:QUERIES]]
        by_class = np.argsort(self.labels[chosen], kind="stable")
        queries: np.ndarray = chosen[by_class]
        return queries


def open_gallery(run: RunFolder, *, images: int = IMAGES) -> tuple[Gallery, Encoder]:
    """Embeds validation images of a run with its newest checkpoint.

    Args:
        run: Run folder, finished or still training.
        images: Maximum number of images; a larger split is reduced to a seeded subset.

    Raises:
        UserError: The run has no checkpoint yet, or its data cannot be found.
    """
    encoder = _load_newest(run)
    process.set_compile_cache(run.config.runtime.compile_cache)
    _, validation = data_splits.load_data(encoder.config)
    subset = seeded_subset(validation, images, seed=encoder.config.train.seed)
    gallery = Gallery(
        step=encoder.step or 0,
        source=subset,
        total=len(validation),
        features=encoder.embed(subset),
        names=_names(subset, encoder.modality),
        classes=class_names(subset),
        environment=_environment(encoder),
        seed=encoder.config.train.seed,
        modality=encoder.modality,
    )
    return gallery, encoder


def _load_newest(run: RunFolder) -> Encoder:
    """Loads the newest checkpoint, with one retry.

    A run that still trains may replace a checkpoint between the search for it and the read.
    """
    try:
        return load_encoder(run.path)
    except (OSError, ValueError):
        return load_encoder(run.path)


def _environment(encoder: Encoder) -> dict[str, str]:
    return {**encoder.meta.get("environment", {}), **encoder.meta.get("versions", {})}


def class_names(source: Source) -> list[str]:
    """Printable class name per label; empty if no image has a label.

    The names come from the source. A source without names is named by the images' folders if each
    class has its own folder, and else by class numbers.
    """
    if source.labels is None or source.labels.max(initial=-1) < 0:
        return []
    names = list(source.classes) or _folders(source)
    numbers = [str(number) for number in range(source.num_classes)]
    return [printable(name) for name in names] if len(names) == len(numbers) else numbers


def _folders(source: Source) -> list[str]:
    """Top-level folder of each label's images; empty unless every label has its own folder."""
    if source.names is None or source.labels is None:
        return []
    folders: dict[int, set[str]] = {}
    for name, label in zip(source.names.tolist(), source.labels.tolist(), strict=True):
        folders.setdefault(label, set()).add(name.partition("/")[0] if "/" in name else "")
    per_label = [folders.get(label, {str(label)}) for label in range(source.num_classes)]
    names = [next(iter(candidates)) for candidates in per_label if len(candidates) == 1]
    distinct = len(set(names)) == len(per_label) and "" not in names
    return names if distinct else []


def _names(source: Source, modality: Modality) -> list[str]:
    if modality.captions is not None:
        return [printable(caption) for caption in modality.captions(source)]
    if source.names is None:
        return [f"{modality.one} {number}" for number in range(len(source))]
    return [printable(pathlib.PurePath(name).name) for name in source.names.tolist()]


def confusion(run: RunFolder, gallery: Gallery, encoder: Encoder, images: int) -> Confusion:
    """Returns the confusion matrix of a linear probe on the gallery's images.

    The matrix in the run's results is used if it exists. Otherwise a probe is fitted here.

    Args:
        run: Run folder.
        gallery: Validation images and their features.
        encoder: Encoder of the run, which embeds the training images.
        images: Maximum number of training images for the probe.

    Raises:
        UserError: The training or the validation split has no labels.
    """
    probe = run.results.linear if run.results else None
    if probe is not None and probe.confusion is not None:
        return Confusion(np.asarray(probe.confusion), "linear probe of results.json")
    train, _ = data_splits.load_data(encoder.config)
    fit_images = seeded_subset(_labelled(train), images, seed=gallery.seed)
    labels = gallery.labels
    if fit_images.labels is None or labels is None or not len(fit_images):
        raise UserError("a confusion matrix needs labels on the training and the validation split")
    classes = max(train.num_classes, gallery.source.num_classes)
    features = encoder.embed(fit_images)
    standardise = standardiser(features)
    l2 = PROBE_L2 if probe is None or probe.l2 is None else probe.l2
    weights, bias = fit_logistic(
        standardise(features), fit_images.labels, num_classes=classes, l2=l2
    )
    labelled = labels >= 0
    scores = standardise(gallery.features[labelled]) @ np.asarray(weights) + np.asarray(bias)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels[labelled], scores.argmax(axis=1)), 1)
    origin = (
        f"linear probe fitted for this page on {len(fit_images):,} training examples, "
        f"{labelled.sum():,} validation examples counted"
    )
    return Confusion(counts, origin)


def _labelled(source: Source) -> Source:
    if source.labels is None:
        return source
    return source.take(np.flatnonzero(source.labels >= 0))


def view_sheet(run: RunFolder) -> PIL.Image.Image:
    """Draws a sheet of the first batch's first images and their views.

    Raises:
        UserError: The data cannot be found.
    """
    from cssl_jax.report.views import draw_views

    return draw_views(run.config, examples=min(EXAMPLES, run.config.train.batch_size))


MISSING = (UserError, RunError, OSError)  # errors that replace a section by a note with the reason
