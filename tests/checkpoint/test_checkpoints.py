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
def test_a_state_comes_back_to_the_bit_on_any_number_of_devices(tmp_path, devices, method_state):
    state = make_state(5, method_state)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest is None
        checkpoints.save(spmd.replicate(state, spmd.make_mesh(jax.devices()[:2])), META, {})
    mesh = spmd.make_mesh(jax.devices()[:devices])
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


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with (
        pytest.raises(UserError, match="holds no checkpoint"),
        Checkpoints(tmp_path, read_only=True) as checkpoints,
    ):
        checkpoints.meta()


def files_of(folder, step):
    """What holds the arrays and the facts of a checkpoint; the rest is Orbax's bookkeeping."""
    place = folder / "checkpoints" / str(step)
    return {
        "arrays": next(path for path in (place / "model" / "d").iterdir()),
        "index": place / "model" / "manifest.ocdbt",
        "optimizer": next(path for path in (place / "train" / "d").iterdir()),
        "facts": place / "meta" / "metadata",
    }


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "harm", [cut, lambda path: path.unlink(), lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize("part", ["arrays", "index", "optimizer", "facts"])
def test_a_damaged_newest_checkpoint_is_moved_aside_and_the_one_before_taken(
    tmp_path, capfd, part, harm
):
    save(tmp_path, [1, 2, 3])
    harm(files_of(tmp_path, 3)[part])
    mesh = spmd.make_mesh(jax.devices()[:1])
    with Checkpoints(tmp_path) as checkpoints:
        state, meta = checkpoints.resume(make_state(0), mesh)
        assert_equal(state, make_state(2))
        assert meta == META
        said = capfd.readouterr().err
        assert "checkpoint of step 3 is damaged" in said
        assert f"moved to {tmp_path / 'damaged' / '3'}; going on from step 2" in said
        checkpoints.save(spmd.replicate(make_state(3), mesh), META, {})  # its place is free
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert_equal(checkpoints.resume(make_state(0), mesh)[0], make_state(3))
    assert (tmp_path / "damaged" / "3" / "model").is_dir()


def test_arrays_that_changed_without_a_trace_are_found_by_their_digest(tmp_path):
    save(tmp_path, [1])
    other = make_state(2)
    other = other.replace(step=jnp.int32(2), params=make_state(1).params)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(other, META, {})
    # A whole item of the right shapes, of another checkpoint, in place of this one's.
    place = tmp_path / "checkpoints"
    (place / "2" / "train").rename(tmp_path / "away")
    (place / "1" / "train").rename(place / "2" / "train")
    mesh = spmd.make_mesh(jax.devices()[:1])
    with (
        pytest.raises(DamagedError, match=r"train/opt_state/0/trace is not what was saved"),
        Checkpoints(tmp_path, read_only=True) as checkpoints,
    ):
        checkpoints.restore(make_state(0), mesh, 2)


def test_where_no_checkpoint_is_whole_all_stay_and_the_way_out_is_told(tmp_path):
    save(tmp_path, [1, 2])
    for step in (1, 2):
        cut(files_of(tmp_path, step)["facts"])
    mesh = spmd.make_mesh(jax.devices()[:1])
    with (
        pytest.raises(RunError, match=r"no checkpoint in .* can be read; .* another --workdir"),
        Checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.resume(make_state(0), mesh)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_a_damaged_score_costs_the_ranking_and_no_more(tmp_path, capfd):
    save(tmp_path, [1, 2, 3], scores={1: 0.9, 2: 0.5}, keep=3)
    (path,) = (tmp_path / "checkpoints" / "1" / "metrics").glob("metrics")
    cut(path)
    with pytest.raises(RunError, match="is damaged; delete it"):
        Checkpoints(tmp_path, read_only=True)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.best == 2
        assert checkpoints.steps == [1, 2, 3]
    assert "is not ranked any more" in capfd.readouterr().err


def test_the_newest_regular_checkpoint_outlives_those_between(tmp_path):
    mesh = spmd.make_mesh(jax.devices()[:1])
    with Checkpoints(tmp_path, keep=1, regular=lambda step: step % 3 == 0) as checkpoints:
        for step in range(2, 9):
            checkpoints.save(spmd.replicate(make_state(step), mesh), META, {})
        assert checkpoints.last_regular() == 6
        assert checkpoints.steps == [6, 8]


def test_a_step_is_saved_anew_with_the_score_that_was_missing(tmp_path):
    save(tmp_path, [1, 2], scores={1: 0.3})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.replace(make_state(2), META, {"knn.top1": 0.7})
        checkpoints.wait()
        assert checkpoints.best == 2
        assert checkpoints.steps == [1, 2]
