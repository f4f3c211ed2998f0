"""(seed, step, row) to example index and example key: a run's data state is one integer.

Plain uint32 arithmetic, so that NumPy on the host and JAX in the compiled step agree to the bit.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from cssl_jax.errors import UserError

MAX_SIZE = 2**31
_ROUNDS = 32
_GOLDEN = 0x9E3779B9

Array = Any  # np.ndarray or jax.Array: every function here serves both


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Order of the examples of a run: each epoch its own keyed permutation.

    A batch never straddles two epochs, so no example is its own negative; the ``size % batch_size``
    examples that are left over differ from epoch to epoch.

    Attributes:
        size: Examples in the training part.
        batch_size: Global batch N.
        seed: Of the run.
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
        """Whole batches in an epoch."""
        return self.size // self.batch_size

    def draw(self, step: Array, rows: Array, xp: Any = np) -> tuple[Array, Array]:
        """Examples of some rows of the global batch of one step.

        Args:
            step: int scalar, from 0; traced or not.
            rows: int [r], row numbers within the global batch.
            xp: ``numpy`` or ``jax.numpy``.

        Returns:
            index int32 [r] in [0, size), and key uint32 [r, 2].
        """
        epoch = step // self.steps_per_epoch
        position = (step % self.steps_per_epoch) * self.batch_size + rows
        index = permute(position, epoch_key(self.seed, epoch, xp), self.size, xp)
        return index.astype(xp.int32), example_key(self.seed, epoch, index, xp)


def permute(position: Array, key: Array, size: int, xp: Any = np) -> Array:
    """A keyed permutation of [0, size), one element at a time, for any size.

    Swap-or-not shuffle (Hoang, Morris and Rogaway, CRYPTO 2012, Fig. 1): in every round a position
    and its partner (K - x mod size) change places or do not, by a bit that depends on the pair.

    Args:
        position: int [...], within [0, size).
        key: uint32 scalar.
        size: Length of the permutation, below 2**31.
        xp: ``numpy`` or ``jax.numpy``.

    Returns:
        uint32 [...], where ``position`` goes.
    """
    length = xp.uint32(size)

    def swap_or_not(turn: Array, x: Array) -> Array:
        round_key = mix(key ^ (xp.uint32(turn) + xp.uint32(1)) * xp.uint32(_GOLDEN), xp)
        partner = round_key % length + (length - x)
        partner = xp.where(partner >= length, partner - length, partner)
        decision = mix(xp.maximum(x, partner) ^ mix(round_key, xp), xp)
        return xp.where(decision >> xp.uint32(31), partner, x)

    x = _uint32(position, xp)
    if xp is not np:
        return jax.lax.fori_loop(0, _ROUNDS, swap_or_not, x)  # unrolled, it compiles slowly
    with np.errstate(over="ignore"):  # NumPy warns where a scalar wraps; here it is meant to
        for turn in range(_ROUNDS):
            x = swap_or_not(turn, x)
    return x


def epoch_key(seed: int, epoch: Array, xp: Any = np) -> Array:
    """uint32 scalar that keys the permutation of one epoch of one run."""
    return mix(mix(_uint32(epoch, xp) ^ _seed_word(seed, 0, xp), xp) ^ _seed_word(seed, 1, xp), xp)


def example_key(seed: int, epoch: Array, index: Array, xp: Any = np) -> Array:
    """Raw key data of one example in one epoch, uint32 [..., 2]: every draw starts from it.

    Both words are bijective in ``index``, so that no two examples of an epoch share a key.
    """
    index = _uint32(index, xp)
    words = [
        mix(index ^ mix(_uint32(epoch, xp) ^ _seed_word(seed, 2 + i, xp), xp), xp) for i in (0, 1)
    ]
    return xp.stack(words, axis=-1)


def mix(x: Array, xp: Any = np) -> Array:
    """A bijective 32-bit finaliser ("lowbias32", Chris Wellons, Prospecting for Hash Functions)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> xp.uint32(16))) * xp.uint32(0x7FEB352D)
        x = (x ^ (x >> xp.uint32(15))) * xp.uint32(0x846CA68B)
        return x ^ (x >> xp.uint32(16))


def _seed_word(seed: int, stream: int, xp: Any) -> Array:
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    word = mix(np.uint32(low)) ^ np.uint32(_word(stream + 1, _GOLDEN))
    return xp.uint32(int(mix(mix(word) ^ np.uint32(high))))


def _word(a: int, b: int) -> int:
    return a * b & 0xFFFFFFFF


def _uint32(x: Array, xp: Any) -> Array:
    return xp.asarray(x).astype(xp.uint32)
