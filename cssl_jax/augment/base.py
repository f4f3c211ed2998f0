"""Base of the augmentation policies of all modalities."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError

Parameters = dict[str, jax.Array]  # sampled parameters of views, by name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """Augmentation policy: which operations a view undergoes, and with which strength.

    A modality has its own policy class, whose fields are the options of the config section
    augment. A policy is hashable: compiled functions take it as a static argument.

    Raises:
        UserError: A probability is outside [0, 1].
    """

    def __post_init__(self) -> None:
        for name in self.per_view:
            values = getattr(self, name)
            if not values or not all(0.0 <= p <= 1.0 for p in values):
                raise UserError(f"augment.{name} is {values}; give probabilities between 0 and 1")

    @property
    def per_view(self) -> tuple[str, ...]:
        """Names of the fields with one probability for all views, or one for each view."""
        return ()

    def uses(self, name: str) -> bool:
        """True if any view may apply the operation; unused operations are not compiled."""
        return any(p > 0.0 for p in getattr(self, name))


def sample_each_view(
    sample: Callable[[jax.Array, jax.Array], Parameters], keys: jax.Array, views: int
) -> Parameters:
    """Draws the parameters of every view of every example.

    Args:
        sample: (key of an example, uint32 [2]; number of a view) -> parameters of the view.
        keys: uint32 [n, 2], keys of the examples.
        views: Number of views per example.

    Returns:
        Parameters as of ``sample``, leaves [n, views, ...].
    """

    def of_example(key: jax.Array) -> Parameters:
        return jax.vmap(lambda view: sample(key, view))(jnp.arange(views))

    drawn: Parameters = jax.vmap(of_example)(keys)
    return drawn
