"""Multi-crop (arXiv 2006.09882, sec. 3.2): small views of small parts beside the usual two."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.augment.view_group import ViewGroup
from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import FRACTION, NOT_NEGATIVE, POSITIVE, Range
from cssl_jax.errors import UserError
from cssl_jax.methods.base import Batch, Context, PyTree
from cssl_jax.methods.core.two_view_methods import TwoViews
from cssl_jax.methods.entry import LocalViews, options_of

LOCAL = "local"  # name of the group of local views


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiCropConfig(MethodConfig):
    """Options of the local views, which show small parts of an image at a small size.

    Attributes:
        local_views: Number of local views per image; 0: none.
        local_size: Side of a local view in pixels.
        local_area: Minimum and maximum area of a local crop, as a fraction of the image's area.
        local_blur: Probability of a blur of a local view. Local views are not solarised; all else
            is drawn as for the first global view.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        "local_views": NOT_NEGATIVE,
        "local_size": POSITIVE,
        "local_blur": FRACTION,
    }

    local_views: int = 0
    local_size: int = 96
    local_area: tuple[float, float] = (0.05, 0.4)
    local_blur: float = 0.5


@dataclasses.dataclass(frozen=True)
class MultiCrop(TwoViews):
    """Base of the methods with two global views and any number of local ones.

    Attributes:
        local: Group of the local views; None: there are none.
    """

    local: ViewGroup | None = dataclasses.field(default=None, kw_only=True)

    @property
    def views(self) -> dict[str, ViewGroup]:
        """Two global views per example, and the local ones."""
        groups = super().views
        return groups if self.local is None else {**groups, LOCAL: self.local}

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """Projections [n, 2 + L, d] of the global and the L local views.

        Views of one size are encoded together, so BatchNorm has statistics of each size, as in the
        authors' code.
        """
        projections, state = self.project_views(params, model_state, batch, ctx)
        return self.with_local(projections, params, state, batch, ctx)

    def with_local(
        self, projections: jax.Array, params: PyTree, state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[jax.Array, PyTree]:
        """Adds the local views to projections of the global ones, [n, 2, d] -> [n, 2 + L, d]."""
        if self.local is None:
            return projections, state
        local, state = self.project_views(params, state, batch, ctx, group=LOCAL, first=2)
        return jnp.concatenate([projections, local], axis=1), state


def local_group(config: Config) -> ViewGroup | None:
    """The local views of a config; None if there are none.

    Raises:
        UserError: There are local views, and the data are no images.
    """
    options, policy = options_of(config, MultiCropConfig), config.augment
    if not options.local_views:
        return None
    if not isinstance(policy, ImagePolicy):
        raise UserError(
            f"method.local_views is {options.local_views}, and local views are those of images; "
            "give 0"
        )
    first = {name: getattr(policy, name)[:1] for name in policy.per_view}
    changed = {
        **first,
        "crop_area": options.local_area,
        "blur": (options.local_blur,),
        "solarize": (0.0,),
    }
    return ViewGroup(
        options.local_views,
        size=options.local_size,
        policy=dataclasses.replace(policy, **changed),
    )


def local_cost(config: Config) -> LocalViews | None:
    """Number and size of the local views, for the closed formulas of ``cssl-jax plan``."""
    options = options_of(config, MultiCropConfig)
    return LocalViews(options.local_views, options.local_size) if options.local_views else None
