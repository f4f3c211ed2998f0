"""Every encoder of sequences trains, resumes, is evaluated and embeds in a whole run."""

import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.modalities.registry import MODALITIES
from cssl_jax.models.registry import encoders_for
from helpers import tiny, waves
from helpers.stops import CrashError, crash_after

MODALITIES["waves"] = waves.WAVES


def config(encoder, path):
    changed = recipes.with_modality(tiny.config(epochs=2, checkpoint_steps=2), "waves")
    changed = tiny.replace(changed, "model", encoder=encoder, width=1 / 32)
    changed = tiny.replace(changed, "data", source=path)
    few = {"l2_values": (0.1,), "online_l2_values": (0.1,), "probe_seeds": 1, "draws": 2}
    return tiny.replace(changed, "evaluate", knn_k=5, knn_ks=(1, 5), batch_size=16, **few)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", encoders_for("series"))
def test_a_run_resumes_with_the_same_bits_and_embeds(encoder, tmp_path):
    trained = config(encoder, waves.write(waves.source(60), None, 60, tmp_path / "waves"))
    results = cssl_jax.pretrain(trained, tmp_path / "whole")
    with pytest.raises(CrashError):
        cssl_jax.pretrain(trained, tmp_path / "run", hooks=[crash_after(5)])
    cssl_jax.pretrain(trained, tmp_path / "run")
    for name in ("metrics.jsonl", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert {"random_init", "mean"} <= set(results.baselines)
    features = cssl_jax.load_encoder(tmp_path / "whole")(waves.source(21, seed=1).examples)
    assert features.shape[0] == 21
    assert np.isfinite(features).all()
