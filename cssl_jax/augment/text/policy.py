"""The augmentation policy of text, and the draws of its parameters."""

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from cssl_jax.augment.base import Parameters, Policy, sample_each_view
from cssl_jax.errors import UserError

PROBABILITIES = ("crop", "delete")
# Each draw has a fixed place in one row of uniform numbers: a policy changes no draw of another.
_SLOTS = ("crop", "crop_length", "crop_start")
_DELETE = 1  # purpose of a key that is derived from the key of a view; 0 is the row of numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPolicy(Policy):
    """Augmentation of tokens. A probability is one number for all views, or one for each view.

    The tokens at both ends of a text, [CLS] and [SEP], are always kept.

    Attributes:
        crop: Probability of the crop: a contiguous span of the tokens.
        crop_length: Smallest and largest length of the span, as fractions of the tokens.
        delete: Probability that a token is deleted, drawn for every token.
    """

    #: Texts of an example that the views are of, in turn: view j is of text j modulo their number.
    #: An example without a positive is a single text.
    members: ClassVar[tuple[str, ...]] = ("text", "positive")

    crop: tuple[float, ...] = (0.0,)
    crop_length: tuple[float, float] = (0.5, 1.0)
    delete: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.crop_length
        if not 0.0 < low <= high <= 1.0:
            raise UserError(
                f"augment.crop_length is ({low}, {high}); give 0 < smallest <= largest <= 1"
            )

    @property
    def per_view(self) -> tuple[str, ...]:
        """Names of the probabilities."""
        return PROBABILITIES


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardNegativePolicy(TextPolicy):
    """Policy of the view of an example's hard negative; methods build it, not users."""

    members: ClassVar[tuple[str, ...]] = ("negative",)

    @classmethod
    def of(cls, policy: TextPolicy) -> "HardNegativePolicy":
        """The policy with the probabilities of the last view."""
        values = dataclasses.asdict(policy)
        return cls(**{**values, **{name: (values[name][-1],) for name in PROBABILITIES}})


def sample(
    key: jax.Array, policy: TextPolicy, view: jax.Array | int = 0, first: int = 0
) -> Parameters:
    """Draws the augmentation parameters of one view of one text; they do not depend on its length.

    Args:
        key: uint32 [2], key of the example (``cssl_jax.data.sampler.example_key``).
        policy: Policy to draw from.
        view: Number of the view within its group, from 0; traced or concrete.
        first: Number of the group's first view among all views of the example.

    Returns:
        crop_length and crop_start (fractions of the tokens, and of the room that the span leaves;
        the length is 1 where the view is not cropped), delete (probability) and delete_key (uint32
        [2], from which one number per token is drawn).
    """
    chex.assert_shape(key, (2,))
    view_key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), first + view)
    drawn = jax.random.uniform(jax.random.fold_in(view_key, 0), (len(_SLOTS),), float)
    uniform: dict[str, jax.Array] = dict(zip(_SLOTS, drawn, strict=True))

    def rate(name: str) -> jax.Array:
        values: jax.Array = jnp.asarray(getattr(policy, name))
        return values[view if len(getattr(policy, name)) > 1 else 0]

    low, high = policy.crop_length
    length = low + uniform["crop_length"] * (high - low)
    return {
        "crop_length": jnp.where(uniform["crop"] < rate("crop"), length, 1.0),
        "crop_start": uniform["crop_start"],
        "delete": rate("delete"),
        "delete_key": jax.random.key_data(jax.random.fold_in(view_key, _DELETE)),
    }


def sample_views(keys: jax.Array, policy: TextPolicy, views: int, first: int = 0) -> Parameters:
    """Draws the parameters of every view of one group, for every text.

    Args:
        keys: uint32 [n, 2], keys of the examples.
        policy: Policy to draw from.
        views: Number of views per example in the group.
        first: Number of the group's first view among all views of an example.

    Returns:
        Parameters as in ``sample``, leaves [n, views, ...].
    """
    return sample_each_view(lambda key, view: sample(key, policy, view, first), keys, views)
