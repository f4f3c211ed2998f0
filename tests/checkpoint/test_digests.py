"""Digests of arrays: agreement with Python integers, and detection of differing replicas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cssl_jax.checkpoint import digests
from cssl_jax.runtime import spmd


def hash_integer(x):
    """One round of the "lowbias32" finaliser in Python integers."""
    x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
    x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
    return x ^ (x >> 16)


def digest(array):
    integers = np.ascontiguousarray(array).ravel()
    integers = integers.view({2: np.uint16, 1: np.uint8}.get(integers.itemsize, np.uint32)).tolist()
    return (
        sum(hash_integer(w ^ hash_integer(i * 0x9E3779B9 % 2**32)) for i, w in enumerate(integers))
        % 2**32
    )


ARRAYS = {
    "floats": np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),
    "integers": np.arange(7, dtype=np.int32),
    "half": np.random.default_rng(1).normal(size=4).astype(jnp.bfloat16),
    "bytes": np.arange(250, 256, dtype=np.uint8),
    "flag": np.array([True, False]),
    "scalar": np.float32(-0.0),
    "none": np.zeros((0, 3), np.float32),
}


def test_digests_match_python_integers():
    computed = digests.digests(ARRAYS)
    assert computed.dtype == np.uint32
    expected = {name: digest(array) for name, array in ARRAYS.items()}
    assert dict(zip(digests.names(ARRAYS), computed.tolist(), strict=True)) == expected


def test_a_flipped_bit_or_a_changed_order_changes_the_digest():
    rng = np.random.default_rng(0)
    array = rng.normal(size=64).astype(np.float32)
    before = int(digests.digests(array)[0])
    for index in range(64):
        integers = array.view(np.uint32).copy()
        integers[index] ^= np.uint32(1) << np.uint32(rng.integers(32))
        assert int(digests.digests(integers.view(np.float32))[0]) != before
    assert int(digests.digests(array[::-1].copy())[0]) != before


def on_devices(values):
    """(mesh, replicated array) where device i holds ``values[i]``; the values may differ."""
    mesh = spmd.make_mesh(jax.devices()[: len(values)])
    sharding = NamedSharding(mesh, PartitionSpec())
    copies = [
        jax.device_put(value, device)
        for value, device in zip(values, mesh.devices.flat, strict=True)
    ]
    return mesh, jax.make_array_from_single_device_arrays(values[0].shape, sharding, copies)


@pytest.mark.parametrize("device", [0, 3])
def test_a_differing_replica_is_reported_by_the_name_of_its_array(device):
    values = [np.arange(6.0, dtype=np.float32) for _ in range(4)]
    mesh, identical = on_devices(values)
    values[device] = np.nextafter(values[device], 9.0)
    _, differing = on_devices(values)
    check = digests.make_replica_check(mesh)
    assert check({"a": identical, "b": {"kernel": identical}}) == []
    assert check({"a": identical, "b": {"kernel": differing}}) == ["b/kernel"]


def test_nan_on_every_device_is_identical_but_another_sign_of_zero_is_not():
    nan = np.full(3, np.nan, np.float32)
    mesh, same = on_devices([nan, nan])
    _, signs = on_devices([np.zeros(3, np.float32), np.array([0, -0.0, 0], np.float32)])
    assert digests.make_replica_check(mesh)((same, signs)) == ["1"]
