import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax import parallel
from cssl_jax.errors import RunError, UserError
from cssl_jax.train.checkpoints import Checkpoints
from cssl_jax.train.state import TrainState

META = {"config": {"a": [1, None, "x"]}, "input": {"mean": [0.25]}}


def make_state(step, method_state=None):
    rng = np.random.default_rng(step)
    params = {"encoder": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}}
    return TrainState(
        step=jnp.int32(step),
        params=jax.tree.map(jnp.asarray, params),
        model_state={"encoder": {"mean": jnp.full(4, step / 7)}, "projector": {}},
        method_state=method_state or {},
        opt_state=({"trace": jnp.arange(3.0) * step}, jnp.int32(step)),
    )


def save(folder, steps, scores=None, keep=2):
    mesh = parallel.make_mesh(jax.devices()[:2])
    with Checkpoints(folder, keep=keep) as checkpoints:
        for step in steps:
            metrics = {"knn.top1": scores[step]} if scores and step in scores else {}
            checkpoints.save(parallel.replicate(make_state(step), mesh), META, metrics)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


@pytest.mark.parametrize("method_state", [None, {"queue": jnp.ones((2, 3))}])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_state_comes_back_to_the_bit_on_any_number_of_devices(tmp_path, devices, method_state):
    state = make_state(5, method_state)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest is None
        checkpoints.save(parallel.replicate(state, parallel.make_mesh(jax.devices()[:2])), META, {})
    mesh = parallel.make_mesh(jax.devices()[:devices])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 5
        restored = checkpoints.restore(make_state(0, method_state), mesh)
        assert checkpoints.meta() == META
    assert_equal(restored, state)
    assert all(len(leaf.sharding.device_set) == devices for leaf in jax.tree.leaves(restored))


def test_the_newest_and_the_best_are_kept(tmp_path):
    save(tmp_path, range(1, 7), scores={1: 0.5, 2: 0.9, 4: 0.7})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps == [2, 5, 6]
    save(tmp_path, [7])  # a restart forgets neither
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps == [2, 6, 7]


def test_a_model_is_read_without_the_rest(tmp_path):
    save(tmp_path, [3])
    state = make_state(0)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        like = {"params": state.params, "model_state": state.model_state}
        model = checkpoints.restore_model(like, parallel.make_mesh(jax.devices()[:1]))
    expected = make_state(3)
    assert_equal(model, {"params": expected.params, "model_state": expected.model_state})


def test_a_save_that_orbax_declines_is_an_error(tmp_path):
    save(tmp_path, [4])
    with (
        pytest.raises(RunError, match=r"step 4 was not written; the newest in .* is step 4"),
        Checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.save(make_state(4), META, {})


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with (
        pytest.raises(UserError, match="holds no checkpoint"),
        Checkpoints(tmp_path, read_only=True) as checkpoints,
    ):
        checkpoints.meta()
