"""Sampler: maps (seed, step, row) to an example index and an example key.

The data state of a run is therefore one integer, the step. The functions use plain uint32
arithmetic, so that NumPy on the host and JAX in the compiled step agree to the bit.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from cssl_jax.errors import UserError

MAX_SIZE = 2**31  # examples; indices must fit in int32
_ROUNDS = 32  # of the swap-or-not shuffle
_GOLDEN = 0x9E3779B9  # 2^32 divided by the golden ratio: spreads consecutive integers over 32 bits

Array = Any  # np.ndarray or jax.Array: every function here accepts both


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Order of the examples of a run: one seeded permutation per epoch.

    A batch never spans two epochs, so no example is its own negative. Each epoch skips
    ``size % batch_size`` examples, which differ from epoch to epoch.

    Attributes:
        size: Number of examples in the training split, at least ``batch_size``, below 2**31.
        batch_size: Number of examples in the global batch (N).
        seed: Seed of the run.

    Raises:
        UserError: The batch is larger than the data, or the data have 2**31 examples or more.
    """

    size: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.batch_size <= self.size:
            raise UserError(
                f"global batch {self.batch_size} does not fit the {self.size} training examples; "
                f"use a batch of at most {self.size}"
            )
        if self.size >= MAX_SIZE:
            raise UserError(f"{self.size} examples; at most {MAX_SIZE - 1} can be ordered")

    @property
    def steps_per_epoch(self) -> int:
        """Number of full global batches per epoch."""
        return self.size // self.batch_size

    def draw(self, step: Array, rows: Array, xp: Any = np) -> tuple[Array, Array]:
        """Draws the examples in some rows of the global batch of one step.

        Args:
            step: int scalar, step number from 0; traced or concrete.
            rows: int [r], row numbers within the global batch.
            xp: Array module, ``numpy`` or ``jax.numpy``.

        Returns:
            Example indices int32 [r] in [0, size), and example keys uint32 [r, 2].
        """
        epoch = step // self.steps_per_epoch
        position = (step % self.steps_per_epoch) * self.batch_size + rows
        index = permute(position, epoch_key(self.seed, epoch, xp), self.size, xp)
        return index.astype(xp.int32), example_key(self.seed, epoch, index, xp)


def permute(position: Array, key: Array, size: int, xp: Any = np) -> Array:
    """Permutation of [0, size) that is derived from a key and computed element by element.

    Swap-or-not shuffle (Hoang, Morris and Rogaway, CRYPTO 2012, Fig. 1): in every round, a bit that
    depends on the pair decides if a position and its partner (K - x mod size) are swapped.

    Args:
        position: int [...], positions within [0, size).
        key: uint32 scalar that selects the permutation.
        size: Number of elements, any number below 2**31.
        xp: Array module, ``numpy`` or ``jax.numpy``.

    Returns:
        uint32 [...], image of each position under the permutation.
    """
    length = xp.uint32(size)

    def swap_or_not(round_number: Array, x: Array) -> Array:
        round_key = mix(key ^ (xp.uint32(round_number) + xp.uint32(1)) * xp.uint32(_GOLDEN), xp)
        # length - x instead of -x: every intermediate value stays below 2**32.
        partner = round_key % length + (length - x)
        partner = xp.where(partner >= length, partner - length, partner)
        # The maximum is the same for both members of a pair, so both take the same decision.
        decision = mix(xp.maximum(x, partner) ^ mix(round_key, xp), xp)
        return xp.where(decision >> xp.uint32(31), partner, x)

    x = _uint32(position, xp)
    if xp is not np:
        return jax.lax.fori_loop(0, _ROUNDS, swap_or_not, x)  # an unrolled loop compiles slowly
    with np.errstate(over="ignore"):  # NumPy warns if a scalar overflows; the hash relies on it
        for round_number in range(_ROUNDS):
            x = swap_or_not(round_number, x)
    return x


def epoch_key(seed: int, epoch: Array, xp: Any = np) -> Array:
    """Key of the permutation of one epoch of one run, uint32 scalar."""
    return mix(mix(_uint32(epoch, xp) ^ _seed_word(seed, 0, xp), xp) ^ _seed_word(seed, 1, xp), xp)


def example_key(seed: int, epoch: Array, index: Array, xp: Any = np) -> Array:
    """Raw key data from which all random draws for an example in one epoch are derived.

    Both halves are bijective in ``index``, so no two examples of an epoch share a key.

    Args:
        seed: Seed of the run.
        epoch: int scalar, epoch number from 0.
        index: int [...], example indices.
        xp: Array module, ``numpy`` or ``jax.numpy``.

    Returns:
        uint32 [..., 2], raw threefry key data.
    """
    index = _uint32(index, xp)
    halves = [
        mix(index ^ mix(_uint32(epoch, xp) ^ _seed_word(seed, 2 + i, xp), xp), xp) for i in (0, 1)
    ]
    return xp.stack(halves, axis=-1)


def mix(x: Array, xp: Any = np) -> Array:
    """Hashes uint32 [...] bijectively to uint32 [...].

    The hash is the finaliser "lowbias32" (Chris Wellons, Prospecting for Hash Functions).
    """
    with np.errstate(over="ignore"):
        x = (x ^ (x >> xp.uint32(16))) * xp.uint32(0x7FEB352D)
        x = (x ^ (x >> xp.uint32(15))) * xp.uint32(0x846CA68B)
        return x ^ (x >> xp.uint32(16))


def _seed_word(seed: int, stream: int, xp: Any) -> Array:
    """uint32 scalar that depends on all 64 bits of the seed; streams give independent values."""
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    word = mix(np.uint32(low)) ^ np.uint32(_product_mod_2_32(stream + 1, _GOLDEN))
    return xp.uint32(int(mix(mix(word) ^ np.uint32(high))))


def _product_mod_2_32(a: int, b: int) -> int:
    return a * b & 0xFFFFFFFF


def _uint32(x: Array, xp: Any) -> Array:
    return xp.asarray(x).astype(xp.uint32)
