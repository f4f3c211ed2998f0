import functools
import importlib.util
import itertools
import threading

import jax
import numpy as np
import pytest

from cssl_jax.data.pipeline import registry
from cssl_jax.data.pipeline.prefetch import prefetch
from cssl_jax.errors import UserError
from helpers import tiny
from tests.helpers.marks import slow


def batches(name, steps, source=None, **augment):
    config = tiny.replace(tiny.config(), "augment", **augment)
    run = tiny.Run(config, source=source, pipeline=name)
    make = jax.jit(run.pipeline.make_batch)
    return [
        jax.device_get(make(np.int32(step), run.constants, host_batch))
        for step, host_batch in zip(range(*steps), run.host_batches(*steps), strict=True)
    ]


def test_resident_and_streamed_batches_are_equal():
    source = tiny.image_source(channels=3)
    for resident, stream in zip(
        batches("resident", (2, 5), source), batches("stream", (2, 5), source), strict=True
    ):
        np.testing.assert_array_equal(resident["index"], stream["index"])
        np.testing.assert_array_equal(resident["key"], stream["key"])
        np.testing.assert_array_equal(resident["label"], stream["label"])
        np.testing.assert_array_equal(resident["label"], source.labels[resident["index"]])
        # Two compilations may order the same float32 arithmetic differently.
        np.testing.assert_allclose(
            resident["views"]["main"], stream["views"]["main"], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("channels", [slow(1), 3])
@pytest.mark.parametrize("name", [slow("tf"), slow("tf-split"), slow("threads"), "threads-split"])
def test_batches_computed_on_the_host_match_within_two_grey_levels(name, channels):
    if name.startswith("tf"):
        pytest.importorskip("tensorflow")
    source = tiny.image_source(channels=channels)
    _, std = pipeline_statistics(source)
    for resident, host in zip(
        batches("resident", (0, 3), source), batches(name, (0, 3), source), strict=True
    ):
        np.testing.assert_array_equal(resident["index"], host["index"])
        np.testing.assert_array_equal(resident["key"], host["key"])
        np.testing.assert_array_equal(resident["label"], host["label"])
        difference = np.abs(resident["views"]["main"] - host["views"]["main"]) * std
        assert difference.max() <= 2 / 255
        assert difference.mean() <= 0.3 / 255


def pipeline_statistics(source):
    from cssl_jax.data.sources.base import channel_statistics

    mean, std = channel_statistics(source.images)
    return np.array(mean), np.array(std)


def test_a_batch_has_the_documented_shapes_and_dtypes():
    (batch,) = batches("resident", (0, 1))
    assert batch["views"]["main"].shape == (16, 2, 8, 8, 1)
    assert batch["views"]["main"].dtype == np.float32
    assert batch["index"].shape == (16,)
    assert batch["key"].shape == (16, 2)
    assert batch["mask"].all()
    assert not np.array_equal(batch["views"]["main"][:, 0], batch["views"]["main"][:, 1])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["shard_map", "pmap"])
def test_images_split_over_the_devices_give_the_same_batches(backend):
    source = tiny.image_source(45, channels=3)  # not a multiple of 8: the last device holds fewer
    for resident in batches("resident", (0, 1), source):
        run = tiny.Run(tiny.config(), 8, backend, source=source, pipeline="resident-split")
        held = {
            shard.data.nbytes for shard in run.constants["examples"]["image"].addressable_shards
        }
        assert held == {-(-len(source) // 8) * source.images[0].nbytes}

        def whole(step, constants, host_batch, make=run.pipeline.make_batch):
            gather = functools.partial(jax.lax.all_gather, axis_name="data", tiled=True)
            return jax.tree.map(gather, make(step, constants, host_batch))

        split = run.spread(whole)(np.int32(0), run.constants, next(run.host_batches(0, 1)))
        np.testing.assert_array_equal(split["index"], resident["index"])
        np.testing.assert_array_equal(split["label"], resident["label"])
        # Two compilations may order the same float32 arithmetic differently.
        np.testing.assert_allclose(
            split["views"]["main"], resident["views"]["main"], rtol=0, atol=1e-5
        )


def test_without_labels_a_batch_has_none():
    source = tiny.image_source()
    source = type(source)("bare", source.images, None)
    for name in ("resident", "stream"):
        assert "label" not in batches(name, (0, 1), source)[0]


def test_views_do_not_depend_on_the_first_step():
    late = batches("stream", (4, 5))[0]
    early = batches("stream", (0, 5))[4]
    np.testing.assert_array_equal(late["views"]["main"], early["views"]["main"])


def choose(**options):
    return registry.choose(
        tiny.image_source(),
        **{"augment_on": "auto", "resident": None, "memory": None, "engine": "auto", "devices": 1}
        | options,
    )


def test_the_choice_follows_size_and_options_and_gives_the_reason():
    assert choose()[0] == "resident"
    assert "fit the" in choose()[1]
    assert choose(memory=1000)[0] == "stream"
    assert "exceed the" in choose(memory=1000)[1]
    assert choose(resident=False)[0] == "stream"
    assert choose(resident="split", devices=2)[0] == "resident-split"
    assert choose(resident="split")[0] == "resident"
    quarter = 4 * (tiny.image_source().images.nbytes // 2 + 8)
    assert choose(memory=quarter, devices=2)[0] == "resident-split"
    assert "a part on each of 2 fits" in choose(memory=quarter, devices=2)[1]
    assert choose(memory=quarter)[0] == "stream"
    assert choose(resident=True, memory=1)[0] == "resident"
    assert choose(augment_on="host")[0] == "tf"
    assert choose(augment_on="host", engine="threads")[0] == "threads"
    assert choose(augment_on="split")[0] == "tf-split"
    with pytest.raises(UserError, match="exclude each other"):
        choose(augment_on="host", resident=True)


def test_engine_tf_without_tensorflow_is_an_error_and_auto_uses_threads(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose(augment_on="host")[0] == "threads"
    with pytest.raises(UserError, match=r"data\.engine=tf needs TensorFlow, .* omit data\.engine"):
        choose(augment_on="host", engine="tf")


def test_prefetch_keeps_order_and_ends():
    assert list(prefetch((x for x in range(20)), lambda x: x * x)) == [x * x for x in range(20)]


def test_prefetch_raises_the_error_of_its_thread():
    def broken():
        yield 1
        raise OSError("disk gone")

    items = prefetch(broken(), lambda x: x)
    assert next(items) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(items)


def test_closing_prefetch_ends_its_thread_and_its_source():
    placed, closed = [], []

    def count():
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    items = prefetch(count(), lambda x: placed.append(x) or x, depth=2)
    assert next(items) == 0
    items.close()
    assert not any(thread.name == "cssl-prefetch" for thread in threading.enumerate())
    assert closed == [True]
    # One consumed, two in the queue, one waiting for the queue, one just computed.
    assert len(placed) <= 5
