"""Checkpoints: restoring, preservation, damaged files and error messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.checkpoint.checkpoints import Checkpoints, DamagedError
from cssl_jax.errors import RunError, UserError
from cssl_jax.runtime import spmd
from cssl_jax.step.state import TrainState

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
    mesh = spmd.make_mesh(jax.devices()[:2])
    with Checkpoints(folder, keep=keep) as checkpoints:
        for step in steps:
            metrics = {"knn.top1": scores[step]} if scores and step in scores else {}
            checkpoints.save(spmd.replicate(make_state(step), mesh), META, metrics)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


@pytest.mark.parametrize("method_state", [None, {"queue": jnp.ones((2, 3))}])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_state_is_restored_exactly_on_any_number_of_devices(tmp_path, devices, method_state):
    state = make_state(5, method_state)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest is None
        checkpoints.save(spmd.replicate(state, spmd.make_mesh(jax.devices()[:2])), META, {})
    mesh = spmd.make_mesh(jax.devices()[:devices])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 5
        restored = checkpoints.restore(make_state(0, method_state), mesh)
        assert checkpoints.read_meta() == META
    assert_equal(restored, state)
    assert all(len(leaf.sharding.device_set) == devices for leaf in jax.tree.leaves(restored))


def test_the_newest_and_the_best_checkpoints_are_preserved(tmp_path):
    save(tmp_path, range(1, 7), scores={1: 0.5, 2: 0.9, 4: 0.7})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps == [2, 5, 6]
    save(tmp_path, [7])  # both survive a restart
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps == [2, 6, 7]


def test_a_model_is_restored_without_the_optimizer(tmp_path):
    save(tmp_path, [3])
    state = make_state(0)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        like = {"params": state.params, "model_state": state.model_state}
        model = checkpoints.restore_model(like, spmd.make_mesh(jax.devices()[:1]))
    expected = make_state(3)
    assert_equal(model, {"params": expected.params, "model_state": expected.model_state})


def test_a_save_that_orbax_declines_is_an_error(tmp_path):
    save(tmp_path, [4])
    with (
        pytest.raises(RunError, match=r"step 4 was not written; the newest in .* is step 4"),
        Checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.save(make_state(4), META, {})


def test_a_folder_without_checkpoints_is_rejected(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with (
        pytest.raises(UserError, match="holds no checkpoint"),
        Checkpoints(tmp_path, read_only=True) as checkpoints,
    ):
        checkpoints.read_meta()


def files_of(folder, step):
    """Files of a checkpoint that contain arrays and metadata, without those of Orbax itself."""
    folder_of_step = folder / "checkpoints" / str(step)
    return {
        "arrays": next(path for path in (folder_of_step / "model" / "d").iterdir()),
        "index": folder_of_step / "model" / "manifest.ocdbt",
        "optimizer": next(path for path in (folder_of_step / "train" / "d").iterdir()),
        "metadata": folder_of_step / "meta" / "metadata",
    }


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage", [truncate, lambda path: path.unlink(), lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize("item", ["arrays", "index", "optimizer", "metadata"])
def test_a_damaged_checkpoint_is_moved_and_the_previous_one_restored(tmp_path, capfd, item, damage):
    save(tmp_path, [1, 2, 3])
    damage(files_of(tmp_path, 3)[item])
    mesh = spmd.make_mesh(jax.devices()[:1])
    with Checkpoints(tmp_path) as checkpoints:
        state, meta = checkpoints.resume(make_state(0), mesh)
        assert_equal(state, make_state(2))
        assert meta == META
        message = capfd.readouterr().err
        assert "checkpoint of step 3 is damaged" in message
        assert f"moved to {tmp_path / 'damaged' / '3'}; resuming from step 2" in message
        checkpoints.save(spmd.replicate(make_state(3), mesh), META, {})  # step 3 can be saved again
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert_equal(checkpoints.resume(make_state(0), mesh)[0], make_state(3))
    assert (tmp_path / "damaged" / "3" / "model").is_dir()


def test_silently_changed_arrays_are_detected_by_their_digest(tmp_path):
    save(tmp_path, [1])
    other = make_state(2)
    other = other.replace(step=jnp.int32(2), params=make_state(1).params)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(other, META, {})
    # Replace an item by an intact item with the same shapes, from another checkpoint.
    folder = tmp_path / "checkpoints"
    (folder / "2" / "train").rename(tmp_path / "away")
    (folder / "1" / "train").rename(folder / "2" / "train")
    mesh = spmd.make_mesh(jax.devices()[:1])
    with (
        pytest.raises(DamagedError, match=r"train/opt_state/0/trace differs from the saved array"),
        Checkpoints(tmp_path, read_only=True) as checkpoints,
    ):
        checkpoints.restore(make_state(0), mesh, 2)


def test_without_an_intact_checkpoint_all_remain_and_the_error_names_a_remedy(tmp_path):
    save(tmp_path, [1, 2])
    for step in (1, 2):
        truncate(files_of(tmp_path, step)["metadata"])
    mesh = spmd.make_mesh(jax.devices()[:1])
    with (
        pytest.raises(
            RunError, match=r"no checkpoint in .* can be read; .* restart in another --workdir"
        ),
        Checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.resume(make_state(0), mesh)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_a_damaged_score_removes_only_the_ranking(tmp_path, capfd):
    save(tmp_path, [1, 2, 3], scores={1: 0.9, 2: 0.5}, keep=3)
    (path,) = (tmp_path / "checkpoints" / "1" / "metrics").glob("metrics")
    truncate(path)
    with pytest.raises(RunError, match="is damaged; delete this file"):
        Checkpoints(tmp_path, read_only=True)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.best == 2
        assert checkpoints.steps == [1, 2, 3]
    assert "is no longer ranked" in capfd.readouterr().err


def test_the_newest_regular_checkpoint_is_preserved(tmp_path):
    mesh = spmd.make_mesh(jax.devices()[:1])
    with Checkpoints(tmp_path, keep=1, regular=lambda step: step % 3 == 0) as checkpoints:
        for step in range(2, 9):
            checkpoints.save(spmd.replicate(make_state(step), mesh), META, {})
        assert checkpoints.last_regular() == 6
        assert checkpoints.steps == [6, 8]


def test_a_checkpoint_is_replaced_to_add_a_missing_score(tmp_path):
    save(tmp_path, [1, 2], scores={1: 0.3})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.replace(make_state(2), META, {"knn.top1": 0.7})
        checkpoints.wait()
        assert checkpoints.best == 2
        assert checkpoints.steps == [1, 2]
