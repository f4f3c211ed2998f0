"""Near-duplicates: groups of perceptual hashes that differ in a few bits."""

import itertools

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

DISTANCE = 4  # bits of 64: a picture encoded again or resized; other pictures differ in about 32


def near_duplicates(phash: np.ndarray, distance: int = DISTANCE) -> list[tuple[int, ...]]:
    """Groups of pictures chained by pairs within a Hamming distance; every such pair is found.

    Two hashes within d bits agree wholly in one of d + 1 bands of their bits, so that only those
    that share a band are compared: no n x n memory.

    Args:
        phash: uint64 [n] of ``scan.perceptual_hash``; 0, no structure, is near to nothing.
        distance: Bits.

    Returns:
        Numbers of each group, ascending, of two or more; groups by their first number.
    """
    hashes, inverse = np.unique(phash, return_inverse=True)
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
    near = np.concatenate(pairs)
    shape = (len(hashes), len(hashes))
    graph = scipy.sparse.coo_matrix((np.ones(len(near), bool), (near[:, 0], near[:, 1])), shape)
    _, component = scipy.sparse.csgraph.connected_components(graph, directed=False)
    of_picture = component[inverse]
    structured = np.flatnonzero(phash != 0)
    groups: dict[int, list[int]] = {}
    for i in structured:
        groups.setdefault(int(of_picture[i]), []).append(int(i))
    return sorted(tuple(group) for group in groups.values() if len(group) > 1)
