"""What a report shows of a run's pictures: features, maps, neighbours, confusions, views."""

import dataclasses
import pathlib

import numpy as np
import PIL.Image

from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.data.sources.base import Source, seeded_subset
from cssl_jax.errors import RunError, UserError
from cssl_jax.evaluate.load import Encoder, load_encoder
from cssl_jax.evaluate.protocols.knn import nearest
from cssl_jax.evaluate.protocols.linear import standardiser
from cssl_jax.evaluate.solvers.logistic import fit_logistic
from cssl_jax.experiment import builders
from cssl_jax.report import projections
from cssl_jax.report.run_reader import RunFolder
from cssl_jax.report.thumbnails import Sprite, make_sprite
from cssl_jax.runtime import process

IMAGES = 10_000  # embedded at most
MOST_IMAGES = 100_000  # a page of more is too large for a browser
NEIGHBOURS, QUERIES, EXAMPLES = 8, 12, 4
PROBE_L2 = 1e-3  # of the probe behind the confusion matrix where results.json names none


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Counts of (true, predicted) classes.

    Attributes:
        counts: int [C, C], rows are true classes.
        origin: Where they come from, in words.
    """

    counts: np.ndarray
    origin: str


@dataclasses.dataclass
class Gallery:
    """Pictures of the validation part and what the encoder makes of them.

    Attributes:
        step: Of the checkpoint.
        source: The part that is shown.
        of: Pictures of the whole validation part.
        features: float32 [n, D].
        names: Of every picture, ready to be shown.
        classes: Names of the labels; empty without labels.
        environment: Of the run, by the checkpoint.
    """

    step: int
    source: Source
    of: int
    features: np.ndarray
    names: list[str]
    classes: list[str]
    environment: dict[str, str]
    seed: int

    def __len__(self) -> int:
        return len(self.source)

    @property
    def labels(self) -> np.ndarray | None:
        """int64 [n], -1 for none; None without labels."""
        return self.source.labels if self.classes else None

    def sprite(self) -> Sprite:
        """Thumbnails of all pictures."""
        return make_sprite(self.source)

    def map(self, kind: str) -> np.ndarray:
        """Places [n, 2]; see ``projections.project``."""
        return projections.project(self.features, kind, seed=self.seed)

    def neighbours(self) -> np.ndarray:
        """int64 [n, 8] (fewer where there are fewer pictures), nearest first."""
        return nearest(self.features, min(NEIGHBOURS, len(self) - 1))

    def queries(self) -> np.ndarray:
        """Rows to show neighbours of: drawn by the seed, as many classes as there is room for."""
        order = permute(np.arange(len(self)), epoch_key(self.seed, 1), len(self))
        if self.labels is None:
            return np.sort(order[:QUERIES])
        _, first = np.unique(self.labels[order], return_index=True)
        rest = np.setdiff1d(np.arange(len(order)), first)
        chosen = order[np.concatenate([np.sort(first), rest])[:QUERIES]]
        return chosen[np.argsort(self.labels[chosen], kind="stable")]


def open_gallery(run: RunFolder, *, images: int = IMAGES) -> tuple[Gallery, Encoder]:
    """Embeds a part of a run's validation pictures with its newest checkpoint.

    Raises:
        UserError: There is no checkpoint yet, or the data are gone; the message says which.
    """
    encoder = _newest(run)
    process.set_compile_cache(run.config.runtime.compile_cache)
    _, validation = builders.load_data(encoder.config)
    part = seeded_subset(validation, images, seed=encoder.config.train.seed)
    gallery = Gallery(
        step=encoder.step or 0,
        source=part,
        of=len(validation),
        features=encoder.embed(part),
        names=_names(part),
        classes=class_names(part),
        environment=_environment(encoder),
        seed=encoder.config.train.seed,
    )
    return gallery, encoder


def _newest(run: RunFolder) -> Encoder:
    """While a run trains, a checkpoint may be replaced between finding and reading it."""
    try:
        return load_encoder(run.path)
    except (OSError, ValueError):
        return load_encoder(run.path)


def _environment(encoder: Encoder) -> dict[str, str]:
    return {**encoder.meta.get("environment", {}), **encoder.meta.get("versions", {})}


def class_names(source: Source) -> list[str]:
    """Of the labels; none where nothing is labelled.

    The source's own, else the folders that pictures lie in, else numbers.
    """
    if source.labels is None or source.labels.max(initial=-1) < 0:
        return []
    known = list(source.classes) or _folders(source)
    numbers = [str(number) for number in range(source.num_classes)]
    return [printable(name) for name in known] if len(known) == len(numbers) else numbers


def _folders(source: Source) -> list[str]:
    """The first folder of every label's pictures; none unless each label has one of its own."""
    if source.names is None or source.labels is None:
        return []
    folders: dict[int, set[str]] = {}
    for name, label in zip(source.names.tolist(), source.labels.tolist(), strict=True):
        folders.setdefault(label, set()).add(name.partition("/")[0] if "/" in name else "")
    found = [folders.get(label, {str(label)}) for label in range(source.num_classes)]
    names = [next(iter(one)) for one in found if len(one) == 1]
    distinct = len(set(names)) == len(found) and "" not in names
    return names if distinct else []


def _names(source: Source) -> list[str]:
    if source.names is None:
        return [f"picture {number}" for number in range(len(source))]
    return [printable(pathlib.PurePath(name).name) for name in source.names.tolist()]


def printable(text: str) -> str:
    """Text that UTF-8 can hold: bytes of file names that are in no encoding become escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def confusion(run: RunFolder, gallery: Gallery, encoder: Encoder, images: int) -> Confusion:
    """The confusion matrix of the linear probe: the run's own, or of one fitted here.

    Raises:
        UserError: There are no labels on both parts.
    """
    probe = run.results.get("linear", {})
    if "confusion" in probe:
        return Confusion(np.asarray(probe["confusion"]), "linear probe of results.json")
    train, _ = builders.load_data(encoder.config)
    bank = seeded_subset(_labelled(train), images, seed=gallery.seed)
    shown = gallery.labels
    if bank.labels is None or shown is None or not len(bank):
        raise UserError("a confusion matrix needs labels on the training and the validation part")
    classes = max(train.num_classes, gallery.source.num_classes)
    features = encoder.embed(bank)
    standardise = standardiser(features)
    l2 = probe.get("l2", PROBE_L2)
    weights, bias = fit_logistic(standardise(features), bank.labels, num_classes=classes, l2=l2)
    told = shown >= 0
    scores = standardise(gallery.features[told]) @ np.asarray(weights) + np.asarray(bias)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (shown[told], scores.argmax(axis=1)), 1)
    origin = (
        f"linear probe fitted for this page on {len(bank):,} training pictures, "
        f"{told.sum():,} validation pictures counted"
    )
    return Confusion(counts, origin)


def _labelled(source: Source) -> Source:
    if source.labels is None:
        return source
    return source.take(np.flatnonzero(source.labels >= 0))


def view_sheet(run: RunFolder) -> PIL.Image.Image:
    """Pictures of the first batch and their views.

    Raises:
        UserError: The data are gone.
    """
    from cssl_jax.report.views import draw_views

    return draw_views(run.config, examples=min(EXAMPLES, run.config.train.batch_size))


MISSING = (UserError, RunError, OSError)  # what makes a section say why it is not there
