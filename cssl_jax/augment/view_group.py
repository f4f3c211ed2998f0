"""View groups: views of an example that share their size and their policy."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cssl_jax.augment.base import Policy
from cssl_jax.errors import UserError

CROP_BOX = "crop_box"  # name of the crop box in ``ViewGroup.keep``


@dataclasses.dataclass(frozen=True)
class ViewGroup:
    """Views of an example that a method requests under one name.

    Attributes:
        count: Number of views per example.
        size: Size of a view, such as the side of an image in pixels; None for the size of the
            encoder's input (``data.size``).
        policy: Augmentation policy; None for the config's ``augment``. A policy with one
            probability per view has ``count`` of them.
        keep: Names of the sampled parameters that the batch holds in ``batch["drawn"]``. Of images
            these are the names of ``augment.image.policy.sample``, and "crop_box".
    """

    count: int
    size: int | None = None
    policy: Policy | None = None
    keep: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedGroup:
    """A view group of a run, with every value known.

    Attributes:
        count: Number of views per example.
        size: Size of a view, such as the side of an image in pixels.
        policy: Augmentation policy, of the class that the modality names.
        first: Number of the group's first view among all views of an example. View numbers run
            across groups, so that no two views of an example share random numbers.
        keep: Names of the sampled parameters that the batch holds in ``batch["drawn"]``.
    """

    count: int
    size: int
    policy: Any
    first: int = 0
    keep: tuple[str, ...] = ()


Groups = dict[str, SizedGroup]


def number_groups(groups: Mapping[str, ViewGroup], *, size: int, policy: Policy) -> Groups:
    """Completes the groups of one source with the run's values and numbers their views.

    Args:
        groups: Groups by name, in the order in which their views are numbered.
        size: Size of the views of groups without a size.
        policy: Policy of groups without a policy.

    Raises:
        UserError: A policy has several probabilities, but not as many as the group has views.

    Example:
        >>> from cssl_jax.augment.image.policy import ImagePolicy
        >>> groups = {"global": ViewGroup(2), "local": ViewGroup(6, size=96)}
        >>> numbered = number_groups(groups, size=224, policy=ImagePolicy())
        >>> [(group.first, group.size) for group in numbered.values()]
        [(0, 224), (2, 96)]
    """
    numbered, first = {}, 0
    for name, group in groups.items():
        numbered[name] = SizedGroup(
            count=group.count,
            size=size if group.size is None else group.size,
            policy=policy if group.policy is None else group.policy,
            first=first,
            keep=group.keep,
        )
        _check_probabilities(name, numbered[name])
        first += group.count
    return numbered


def first_group(groups: Groups) -> SizedGroup:
    """The group that stands for all where only one can be used; "main" in SimCLR."""
    return next(iter(groups.values()))


def count_views(groups: Groups) -> int:
    """Number of views per example in all groups."""
    return sum(group.count for group in groups.values())


def _check_probabilities(name: str, group: SizedGroup) -> None:
    """Refuses probabilities that do not belong to one view each: an index would be clamped."""
    for operation in group.policy.per_view:
        values = getattr(group.policy, operation)
        # A classifier, which has one view, takes the first of a policy for several.
        wanted = {1, group.count} if group.count > 1 else {len(values)}
        if len(values) not in wanted:
            raise UserError(
                f"augment.{operation} is {values}, and the view group {name!r} has {group.count} "
                "views; give one probability for all views or one for each"
            )
