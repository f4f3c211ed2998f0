import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cssl_jax.checkpoint import digests
from cssl_jax.runtime import spmd


def mixed(x):
    """One round of the "lowbias32" finaliser in the integers of Python."""
    x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
    x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
    return x ^ (x >> 16)


def digest(array):
    words = np.ascontiguousarray(array).ravel()
    words = words.view({2: np.uint16, 1: np.uint8}.get(words.itemsize, np.uint32)).tolist()
    return sum(mixed(w ^ mixed(i * 0x9E3779B9 % 2**32)) for i, w in enumerate(words)) % 2**32


ARRAYS = {
    "floats": np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),
    "whole": np.arange(7, dtype=np.int32),
    "half": np.random.default_rng(1).normal(size=4).astype(jnp.bfloat16),
    "bytes": np.arange(250, 256, dtype=np.uint8),
    "flag": np.array([True, False]),
    "scalar": np.float32(-0.0),
    "none": np.zeros((0, 3), np.float32),
}


def test_digests_are_what_python_integers_give():
    found = digests.digests(ARRAYS)
    assert found.dtype == np.uint32
    expected = {name: digest(array) for name, array in ARRAYS.items()}
    assert dict(zip(digests.names(ARRAYS), found.tolist(), strict=True)) == expected


def test_any_one_bit_and_any_change_of_order_changes_the_digest():
    rng = np.random.default_rng(0)
    array = rng.normal(size=64).astype(np.float32)
    before = int(digests.digests(array)[0])
    for place in range(64):
        words = array.view(np.uint32).copy()
        words[place] ^= np.uint32(1) << np.uint32(rng.integers(32))
        assert int(digests.digests(words.view(np.float32))[0]) != before
    assert int(digests.digests(array[::-1].copy())[0]) != before


def on_devices(values):
    """A replicated array whose devices hold these values, which may differ."""
    mesh = spmd.make_mesh(jax.devices()[: len(values)])
    sharding = NamedSharding(mesh, PartitionSpec())
    pieces = [
        jax.device_put(value, device)
        for value, device in zip(values, mesh.devices.flat, strict=True)
    ]
    return mesh, jax.make_array_from_single_device_arrays(values[0].shape, sharding, pieces)


@pytest.mark.parametrize("sick", [0, 3])
def test_a_drifted_replica_is_named_by_its_array(sick):
    values = [np.arange(6.0, dtype=np.float32) for _ in range(4)]
    mesh, healthy = on_devices(values)
    values[sick] = np.nextafter(values[sick], 9.0)
    _, drifted = on_devices(values)
    check = digests.make_replica_check(mesh)
    assert check({"a": healthy, "b": {"kernel": healthy}}) == []
    assert check({"a": healthy, "b": {"kernel": drifted}}) == ["b/kernel"]


def test_nan_on_every_device_is_no_drift_but_another_sign_of_zero_is():
    nan = np.full(3, np.nan, np.float32)
    mesh, same = on_devices([nan, nan])
    _, signs = on_devices([np.zeros(3, np.float32), np.array([0, -0.0, 0], np.float32)])
    assert digests.make_replica_check(mesh)((same, signs)) == ["1"]
