"""The validation images that rank checkpoints, those that report, and a description of both."""

import numpy as np

from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.results import Selection


def labelled_examples(source: Source) -> Source:
    """The labelled examples of a partly labelled source; any other source is returned unchanged."""
    if source.labels is None or source.labels.min() >= 0 or source.labels.max() < 0:
        return source
    return source.take(np.flatnonzero(source.labels >= 0))


def split_ranking_reporting(validation: Source, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the validation images at random into a ranking half and a reporting half.

    Args:
        validation: Validation images, with or without labels.
        seed: Seed of the run.

    Returns:
        Sorted rows of ``labelled_examples(validation)``: those that rank checkpoints, those that
        report on the best one.
    """
    size = len(validation)
    # Another epoch than the one of the data split, so that the two orders are independent.
    order = permute(np.arange(size), epoch_key(seed, 1), size)
    is_ranking = np.zeros(size, bool)
    is_ranking[order[: (size + 1) // 2]] = True
    labels = validation.labels
    # Drawn before unlabelled images are dropped: an image is in the same half with and without
    # labels.
    if labels is not None and labels.max() >= 0:
        is_ranking = is_ranking[labels >= 0]
    return np.flatnonzero(is_ranking), np.flatnonzero(~is_ranking)


def describe_split(selection: Selection, total: int, chose_best: bool, noun: str) -> str:
    """Describes the images that ranked checkpoints and those that report on the best one.

    Args:
        selection: Numbers of both.
        total: Number of validation images.
        chose_best: Whether images of this validation split ranked the run's checkpoints.
        noun: Plural noun for the examples, such as "images".
    """
    reporting = selection.reporting_images or 0
    if chose_best:
        return (
            f"on {selection.images:,} of the {total:,} validation {noun}; it is reported on the "
            f"other {reporting:,}"
        )
    subset = f"all {reporting:,} here"
    if reporting < total:
        subset = f"the {reporting:,} of {total:,} here that are not among them"
    return f"on the run's own validation {noun}; it is reported on {subset}"
