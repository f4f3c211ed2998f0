"""Near-duplicates: groups of perceptual hashes that differ in a few bits."""

import itertools

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

# Bits of 64. Re-encoding or resizing an image changes at most about this many bits of its hash;
# hashes of unrelated images differ in about 32 bits.
DISTANCE = 4


def near_duplicates(phash: np.ndarray, distance: int = DISTANCE) -> list[tuple[int, ...]]:
    """Groups images whose hashes are connected by pairs within a Hamming distance.

    The search is exact: every pair within the distance is found.

    Args:
        phash: uint64 [n], hashes by ``scan.perceptual_hash``. The hash 0 (an image without
            structure) matches nothing.
        distance: Maximum Hamming distance of a pair, in bits.

    Returns:
        Image numbers of each group of two or more, ascending; groups are sorted by first number.
    """
    hashes, inverse = np.unique(phash, return_inverse=True)
    near = _close_pairs(hashes, distance)
    shape = (len(hashes), len(hashes))
    graph = scipy.sparse.coo_matrix((np.ones(len(near), bool), (near[:, 0], near[:, 1])), shape)
    _, component = scipy.sparse.csgraph.connected_components(graph, directed=False)
    image_component = component[inverse]
    structured = np.flatnonzero(phash != 0)
    groups: dict[int, list[int]] = {}
    for i in structured:
        groups.setdefault(int(image_component[i]), []).append(int(i))
    return sorted(tuple(group) for group in groups.values() if len(group) > 1)


def near_pairs(
    phash: np.ndarray, others: np.ndarray, distance: int = DISTANCE
) -> list[tuple[int, int]]:
    """Finds near-duplicate pairs between two sets of images.

    Args:
        phash: uint64 [n], hashes of the first set; 0 matches nothing.
        others: uint64 [m], hashes of the second set.
        distance: Maximum Hamming distance of a pair, in bits.

    Returns:
        Pairs (number in the first set, number in the second set), sorted.
    """
    hashes, inverse = np.unique(np.concatenate([phash, others]), return_inverse=True)
    members = [
        _members(numbers, len(hashes)) for numbers in (inverse[: len(phash)], inverse[len(phash) :])
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


def _members(hash_numbers: np.ndarray, count: int) -> dict[int, np.ndarray]:
    """Image numbers by hash number, for each of ``count`` hashes that has at least one image."""
    order = np.argsort(hash_numbers, kind="stable")
    edges = np.searchsorted(hash_numbers[order], np.arange(count + 1))
    return {
        h: order[low:high] for h, (low, high) in enumerate(itertools.pairwise(edges)) if high > low
    }


def _close_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Finds all pairs of distinct hashes within a Hamming distance, except pairs with the hash 0.

    Two hashes within d bits are identical in at least one of d + 1 bands of their bits. Only hashes
    that share a band are compared, so memory does not grow as n x n.

    Args:
        hashes: uint64 [n], sorted and distinct.
        distance: Maximum Hamming distance of a pair, in bits.

    Returns:
        int [p, 2], positions in ``hashes``; a pair that shares several bands is repeated.
    """
    pairs = [np.zeros((0, 2), np.int64)]
    edges = np.linspace(0, 64, distance + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        start = np.arange(len(hashes))
        for shift in range(1, len(hashes)):
            # In sorted order, a band that differs at this shift differs at every larger shift too.
            start = start[start + shift < len(hashes)]
            start = start[band[order[start]] == band[order[start + shift]]]
            if not len(start):
                break
            pair = np.stack([order[start], order[start + shift]], axis=1)
            bits = np.bitwise_count(hashes[pair[:, 0]] ^ hashes[pair[:, 1]])
            pairs.append(pair[(bits <= distance) & (hashes[pair] != 0).all(axis=1)])
    return np.concatenate(pairs)
