"""Near-duplicates: groups of perceptual hashes that differ in a few bits."""

import itertools

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

DISTANCE = 4  # bits of 64: a picture encoded again or resized; other pictures differ in about 32


def near_duplicates(phash: np.ndarray, distance: int = DISTANCE) -> list[tuple[int, ...]]:
    """Groups of pictures chained by pairs within a Hamming distance; every such pair is found.

    Args:
        phash: uint64 [n] of ``scan.perceptual_hash``; 0, no structure, is near to nothing.
        distance: Bits.

    Returns:
        Numbers of each group, ascending, of two or more; groups by their first number.
    """
    hashes, inverse = np.unique(phash, return_inverse=True)
    near = _close_pairs(hashes, distance)
    shape = (len(hashes), len(hashes))
    graph = scipy.sparse.coo_matrix((np.ones(len(near), bool), (near[:, 0], near[:, 1])), shape)
    _, component = scipy.sparse.csgraph.connected_components(graph, directed=False)
    of_image = component[inverse]
    structured = np.flatnonzero(phash != 0)
    groups: dict[int, list[int]] = {}
    for i in structured:
        groups.setdefault(int(of_image[i]), []).append(int(i))
    return sorted(tuple(group) for group in groups.values() if len(group) > 1)


def near_pairs(
    phash: np.ndarray, others: np.ndarray, distance: int = DISTANCE
) -> list[tuple[int, int]]:
    """Pairs of one picture of a set and one of another, as ``near_duplicates`` finds them.

    Args:
        phash: uint64 [n].
        others: uint64 [m].
        distance: Bits.

    Returns:
        (number in the set, number among the others), sorted.
    """
    hashes, inverse = np.unique(np.concatenate([phash, others]), return_inverse=True)
    members = [
        _members(part, len(hashes)) for part in (inverse[: len(phash)], inverse[len(phash) :])
    ]
    same = np.flatnonzero(hashes)
    close = _close_pairs(hashes, distance)
    both_ways = np.concatenate([np.stack([same, same], axis=1), close, close[:, ::-1]])
    return sorted(
        {
            (int(i), int(j))
            for a, b in both_ways
            for i in members[0].get(int(a), ())
            for j in members[1].get(int(b), ())
        }
    )


def _members(of_hash: np.ndarray, count: int) -> dict[int, np.ndarray]:
    """Numbers of the pictures of each hash that has some."""
    order = np.argsort(of_hash, kind="stable")
    edges = np.searchsorted(of_hash[order], np.arange(count + 1))
    return {
        h: order[low:high] for h, (low, high) in enumerate(itertools.pairwise(edges)) if high > low
    }


def _close_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Pairs int [p, 2] within ``distance`` bits of sorted, distinct hashes uint64 [n]; none of 0.

    Two hashes within d bits agree wholly in one of d + 1 bands of their bits, so that only those
    that share a band are compared: no n x n memory.
    """
    pairs = [np.zeros((0, 2), np.int64)]
    edges = np.linspace(0, 64, distance + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        start = np.arange(len(hashes))
        for shift in range(1, len(hashes)):
            # Sorted, what differs from a neighbour differs from all that are further away.
            start = start[start + shift < len(hashes)]
            start = start[band[order[start]] == band[order[start + shift]]]
            if not len(start):
                break
            pair = np.stack([order[start], order[start + shift]], axis=1)
            bits = np.bitwise_count(hashes[pair[:, 0]] ^ hashes[pair[:, 1]])
            pairs.append(pair[(bits <= distance) & (hashes[pair] != 0).all(axis=1)])
    return np.concatenate(pairs)
