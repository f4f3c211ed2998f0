"""Linear probe with one group held out after another: does it hold for a new subject or device?"""

from collections.abc import Sequence

import numpy as np

from cssl_jax.data.sources.base import Source, groups_of
from cssl_jax.errors import UserError
from cssl_jax.evaluate.protocols.linear import linear_probe
from cssl_jax.evaluate.scores import GroupAccuracy, GroupScores


def check_groups(source: Source) -> np.ndarray:
    """Group of every example, str [N].

    Raises:
        UserError: The source has no labels, or fewer than two groups.
    """
    groups = groups_of(source)
    if groups is None or len(np.unique(groups)) < 2:
        found = "none" if groups is None else f"only {str(groups[0])!r}"
        raise UserError(
            f"protocol 'groups' holds out one group after another, and {source.name} has {found}; "
            "give a group per example, such as a column group"
        )
    if source.labels is None or source.labels.max() < 0:
        raise UserError(f"protocol 'groups' needs labels, and {source.name} has none")
    return groups


def leave_group_out(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    num_classes: int,
    l2_values: Sequence[float],
    seed: int = 0,
) -> GroupScores:
    """Fits a linear probe without one group and evaluates it on that group, for every group.

    Args:
        features: Features, float [N, D].
        labels: Class per example, int [N] in [0, num_classes).
        groups: Group per example, str [N], of at least two groups.
        num_classes: Number of classes.
        l2_values: Penalties, one of which is chosen on a fifth of the examples that are fitted on.
        seed: Seed of that fifth.

    Returns:
        Mean and standard deviation of the accuracy over the groups, each of equal weight, and the
        accuracy per group.
    """
    by_group: dict[str, GroupAccuracy] = {}
    for name in np.unique(groups):
        held_out = groups == name
        found = linear_probe(
            features[~held_out],
            labels[~held_out],
            features[held_out],
            labels[held_out],
            num_classes=num_classes,
            l2_values=tuple(l2_values),
            seed=seed,
        )
        by_group[str(name)] = GroupAccuracy(top1=found.top1, examples=int(held_out.sum()))
    accuracies = [row["top1"] for row in by_group.values()]
    return GroupScores(
        top1=float(np.mean(accuracies)),
        top1_std=float(np.std(accuracies, ddof=1)),
        by_group=by_group,
    )
