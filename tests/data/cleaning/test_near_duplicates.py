import numpy as np
import pytest

from cssl_jax.data.cleaning.near_duplicates import near_duplicates


def groups_by_brute_force(hashes, distance):
    """Groups found by a flood fill over the full matrix of distances."""
    near = [
        [j for j, b in enumerate(hashes) if a and b and int(a ^ b).bit_count() <= distance]
        for a in hashes
    ]
    visited, groups = set(), []
    for start in range(len(hashes)):
        group, pending = set(), [start]
        while pending:
            i = pending.pop()
            if i not in group and i not in visited:
                group.add(i)
                pending += near[i]
        visited |= group
        if len(group) > 1:
            groups.append(tuple(sorted(group)))
    return sorted(groups)


@pytest.mark.parametrize("distance", [0, 1, 4, 7])
def test_every_pair_within_the_distance_is_found(distance):
    rng = np.random.default_rng(distance)
    base = rng.integers(1, 2**63, 60, dtype=np.uint64)
    flips = [
        np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, k, replace=False).astype(np.uint64))
        for k in rng.integers(1, 9, 120)
    ]
    hashes = np.concatenate([base, base[rng.integers(0, 60, 120)] ^ np.array(flips), base[:9]])
    groups = near_duplicates(hashes, distance)
    assert groups == groups_by_brute_force([int(h) for h in hashes], distance)
    assert groups


def test_images_without_structure_match_nothing():
    assert near_duplicates(np.array([0, 0, 0, 3], np.uint64), 4) == []


def test_a_hundred_thousand_unrelated_hashes_have_no_near_duplicates():
    hashes = np.random.default_rng(0).integers(1, 2**63, 100_000, dtype=np.uint64)
    assert near_duplicates(hashes, 4) == []


def test_fewer_than_two_hashes_have_no_near_duplicates():
    assert near_duplicates(np.zeros(0, np.uint64)) == []
    assert near_duplicates(np.ones(1, np.uint64)) == []
