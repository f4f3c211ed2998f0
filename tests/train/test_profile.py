import numpy as np
import pytest

import cssl_jax
from cssl_jax.errors import UserError
from cssl_jax.train.profile import Profile
from helpers import tiny


@pytest.mark.parametrize("steps", ["10", "20:10", "0:3", "a:b", "1:2:3", "-1:2"])
def test_steps_that_are_none_are_refused(tmp_path, steps):
    with pytest.raises(UserError, match=r"give FIRST:LAST, such as 10:20"):
        Profile(tmp_path, steps)


@pytest.mark.slow
def test_the_steps_asked_for_are_traced(tmp_path, capfd):
    source = tiny.image_source()
    np.savez(tmp_path / "images.npz", images=source.images, labels=source.labels)
    config = tiny.config(epochs=1, tensorboard=False, evaluate_every=0)
    config = tiny.replace(config, "data", source=str(tmp_path / "images.npz"))
    cssl_jax.pretrain(config, tmp_path / "run", profile_steps="2:2")
    assert f"step 2: traced into {tmp_path / 'run' / 'profile'}" in capfd.readouterr().err
    (trace,) = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    assert b"train_step" in trace.read_bytes()
