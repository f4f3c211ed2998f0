"""The self-check covers a method with several view groups, from a user's file."""

import pathlib

import numpy as np
import pytest

import cssl_jax
from cssl_jax.selfcheck.run import Row, check_outcome, selfcheck
from helpers import multi_crop, tiny

pytestmark = pytest.mark.slow
FILE = pathlib.Path(multi_crop.__file__)
BOX = 'examples["drawn"]["local"]["crop_box"]'
LOCAL = 'batch["views"]["local"]'


@pytest.fixture(autouse=True)
def trusted():
    with cssl_jax.trusting_code():
        yield


def config(file):
    """Global views are only cropped and flipped, for speed; the local ones have other changes."""
    views = dict.fromkeys(("augment.jitter", "augment.blur", "augment.solarize"), (0.0,))
    return tiny.config().replace({"method.name": f"{file}:MULTI_CROP", **views})


@pytest.mark.timeout(600)
def test_the_check_passes_two_view_groups_in_one_process_and_in_several(tmp_path):
    source = tiny.image_source(60)
    np.savez(tmp_path / "images.npz", images=source.images, labels=source.labels)
    changes = {"model.encoder": tiny.TINY_FILE, "data.source": str(tmp_path / "images.npz")}
    check = selfcheck(config(FILE).replace(changes), devices=2, steps=2)
    assert check.passed, str(check)
    assert {row.processes for row in check.rows} == {1, 2}
    assert max(row.difference.gradient for row in check.rows if row.precision == "float64") < 1e-9


def outcome(file, devices):
    return tiny.Run(config(file), devices).run(1)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("loss += jnp.mean(", "loss += jnp.sum(", "loss, gradient beyond the bound"),
        (BOX, f"jnp.roll({BOX}, jax.lax.axis_index(ctx.axis_name), 0)", "loss, gradient"),
        (LOCAL, f"jnp.roll({LOCAL}, jax.lax.axis_index(ctx.axis_name), 1)", "loss, gradient"),
    ],
    ids=["a sum over a device's rows", "boxes of other rows", "views in another order"],
)
def test_a_second_group_that_depends_on_the_devices_is_caught(tmp_path, old, new, expected):
    text = FILE.read_text()
    assert text.count(old) == 1
    mutant = tmp_path / "mutant.py"
    mutant.write_text("import jax\n" + text.replace(old, new))
    one, four = (outcome(mutant, devices) for devices in (1, 4))
    row = check_outcome(Row("float32", 4, 1, "shard_map", None, ""), four, one)
    assert row.problem.startswith(expected)
