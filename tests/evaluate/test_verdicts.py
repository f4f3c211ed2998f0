"""Verdicts on the metrics of runs: a rule fires on unhealthy metrics only."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cssl_jax
from cssl_jax.config import OptimizerConfig
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.evaluate import health, verdicts
from cssl_jax.evaluate.protocols.knn import nearest
from cssl_jax.evaluate.results import Results
from cssl_jax.modalities.image import IMAGE
from cssl_jax.models.registry import EncoderEntry
from cssl_jax.optim.trust_metrics import make_trust_ratio_metrics
from cssl_jax.report.run_reader import open_run
from helpers import tiny

CHANCE = math.log(255)
KNOWN = verdicts.Facts(128, CHANCE, temperature=0.2, total_steps=100, applies_from=10)
# (step, loss, entropy, accuracy) of 12 epochs of the digits recipe, which ends at 95 % (linear).
DIGITS = (
    (1, 5.783, 4.944, 0.004),
    (10, 5.774, 5.027, 0.012),
    (20, 5.616, 4.81, 0.012),
    (30, 5.354, 4.76, 0.027),
    (40, 5.579, 4.725, 0.023),
    (50, 5.172, 4.694, 0.031),
    (60, 4.993, 4.654, 0.074),
    (70, 4.845, 4.552, 0.047),
    (80, 4.483, 4.525, 0.062),
    (90, 4.41, 4.482, 0.078),
    (100, 4.154, 4.483, 0.105),
    (110, 4.115, 4.437, 0.121),
    (120, 4.103, 4.421, 0.082),
    (130, 4.025, 4.417, 0.062),
    (132, 3.99, 4.436, 0.102),
)


def line(step=60, loss=3.5, entropy=4.0, accuracy=0.3, **more):
    metrics = {"contrastive_entropy": entropy, "contrastive_accuracy": accuracy, **more}
    return {"step": step, "loss": loss, **metrics}


def features(**changed):
    """Health metrics of the digits recipe after 12 epochs, with changed ones."""
    healthy = {
        "rows": 359.0,
        "rank_limit": 359.0,
        "alignment": 0.429,
        "uniformity": -0.997,
        "rankme": 126.0,
        "view_retrieval": 0.029,
        "std": 0.508,
        "dead": 0.0,
        "neighbour_purity": 0.75,
        "purity_chance": 0.1,
    }
    return {"step": 60, **{f"features.{n}": v for n, v in {**healthy, **changed}.items()}}


def titles(found):
    return [verdict.title for verdict in found]


def test_a_flat_softmax_at_the_chance_level_is_at_chance():
    (found,) = verdicts.check_steps([line(loss=CHANCE + 0.01, entropy=CHANCE - 0.01)], KNOWN)
    assert found.grade == "bad"
    assert str(found).startswith("at chance: loss 5.551, chance level 5.541")


def test_a_confident_softmax_that_passes_the_chance_level_is_not_at_chance():
    # The digits recipe crosses the chance level within its first ten epochs, on its way down.
    assert verdicts.check_steps([line(loss=CHANCE, entropy=4.7)], KNOWN) == []


def test_a_real_run_on_its_way_is_accused_of_nothing_at_any_step():
    config = tiny.replace(cssl_jax.recipes.load("digits"), "train", epochs=12)
    known = verdicts.facts(config, steps_per_epoch=11)
    assert known.applies_from == 22  # the end of its warm-up
    lines = [line(*row) for row in DIGITS]
    assert any(row[1] > CHANCE for row in DIGITS[3:])  # the loss falls through the chance level
    for count in range(1, len(lines) + 1):
        assert verdicts.check_steps(lines[:count], known) == []


def test_no_rule_applies_during_warmup_and_one_batch_does_not_decide():
    flat = line(step=9, loss=CHANCE, entropy=CHANCE)
    assert verdicts.check_steps([flat], KNOWN) == []
    assert titles(verdicts.check_steps([{**flat, "step": 10}], KNOWN)) == ["at chance"]
    others = [line(step=step) for step in range(6, 10)]
    assert verdicts.check_steps([*others, {**flat, "step": 10}], KNOWN) == []


def test_at_chance_names_a_temperature_at_which_no_loss_can_leave_it():
    hot = verdicts.Facts(
        pairs=128, chance=CHANCE, temperature=100.0, total_steps=100, applies_from=10
    )
    (found,) = verdicts.check_steps([line(loss=CHANCE, entropy=CHANCE)], hot)
    assert "at temperature 100 no loss can fall" in found.detail


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("pairs", [2, 5, 64])
def test_no_arrangement_has_a_lower_loss_than_minimum_loss(temperature, pairs):
    # Identical positives at the corners of a simplex: NT-Xent as a float64 loop of its definition.
    corners = np.eye(pairs) - 1 / pairs
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    z = np.concatenate([corners, corners])
    similarity = z @ z.T / temperature
    losses = []
    for i in range(2 * pairs):
        others = [similarity[i, j] for j in range(2 * pairs) if j != i]
        losses.append(np.log(np.sum(np.exp(others))) - similarity[i, (i + pairs) % (2 * pairs)])
    assert verdicts.minimum_loss(pairs, temperature) == pytest.approx(np.mean(losses), rel=1e-9)


def test_a_loss_above_chance_is_accused_only_past_half_of_the_run():
    assert verdicts.check_steps([line(step=50, loss=6.4)], KNOWN) == []
    assert titles(verdicts.check_steps([line(step=51, loss=6.4)], KNOWN)) == ["worse than chance"]


def test_views_are_too_easy_where_the_first_half_solves_them():
    assert titles(verdicts.check_steps([line(step=30, accuracy=0.995)], KNOWN)) == [
        "views too easy"
    ]
    assert verdicts.check_steps([line(step=90, accuracy=0.995)], KNOWN) == []
    assert verdicts.check_steps([line(step=30, accuracy=0.9)], KNOWN) == []


def test_projections_at_a_point_are_called_so():
    collapsed = verdicts.check_steps([line(projection_std=0.05)], KNOWN)
    assert titles(collapsed) == ["projections collapsed to a point"]
    assert verdicts.check_steps([line(projection_std=0.3)], KNOWN) == []


def test_lars_that_follows_weight_decay_or_leaps_is_called_so():
    known = verdicts.Facts(128, CHANCE, 0.2, 100, 10, trust_coefficient=0.001, weight_decay=1e-4)
    calm = {"trust_ratio_median": 0.1, "learning_rate": 4.8}
    assert verdicts.check_steps([line(**calm)], known) == []
    # Without a gradient the ratio is eta |w| / (lambda |w|) = 10.
    decayed = {**calm, "trust_ratio_median": 9.9}
    assert titles(verdicts.check_steps([line(**decayed)], known)) == ["LARS follows weight decay"]
    leaping = {**calm, "learning_rate": 60.0}
    assert titles(verdicts.check_steps([line(**leaping)], known)) == ["LARS steps are large"]


@pytest.mark.parametrize(
    ("changed", "title"),
    [
        ({"uniformity": -0.01, "rankme": 1.2, "std": 0.05}, "collapsed to a point"),
        ({"uniformity": math.nan}, "collapsed to a point"),
        ({"rankme": 3.2}, "collapsed to 3 dimensions"),
        ({"rankme": 1.3}, "collapsed to 1 dimension"),
        ({"dead": 0.7}, "dead dimensions"),
        # Two images have a mean squared distance of 2 x 0.508^2 = 0.516.
        ({"alignment": 0.515}, "views too hard"),
        # A fraction of 0.1 in 359 rows has a standard error of 0.016.
        ({"neighbour_purity": 0.14}, "neighbours do not share labels"),
    ],
)
def test_features_are_called_by_what_is_wrong_with_them(changed, title):
    assert titles(verdicts.check_features(features(**changed), KNOWN)) == [title]


def test_healthy_features_and_beginnings_are_not_accused():
    assert verdicts.check_features(features(), KNOWN) == []
    assert verdicts.check_features({**features(rankme=1.0), "step": 9}, KNOWN) == []
    assert verdicts.check_features(features(neighbour_purity=0.16), KNOWN) == []
    # With one class only, every neighbour has it: purity and chance are 1.
    assert verdicts.check_features(features(neighbour_purity=1.0, purity_chance=1.0), KNOWN) == []


def test_metrics_that_a_method_does_not_have_are_not_checked():
    assert verdicts.check_steps([{"step": 60, "loss": 0.2}], KNOWN) == []
    assert verdicts.check_features({"step": 60, "knn.top1": 0.5}, KNOWN) == []


def test_waiting_is_checked_over_the_run_without_its_compilation():
    first = {"step": 1, "input_wait": 0.9, "seconds": 60.0}
    calm = [{"step": s, "input_wait": 0.05, "seconds": 1.0} for s in (2, 3)]
    assert verdicts.check_timings([first, *calm]) == []
    slow = {"step": 4, "input_wait": 0.5, "seconds": 2.0}
    # (2 x 0.05 + 2 x 0.5) / 4 = 27.5 %.
    (found,) = verdicts.check_timings([first, *calm, slow])
    assert found.title == "waiting for input 28 % of the time"


def test_results_are_read_beside_their_baselines():
    def row(top1):
        return {"linear": {"top1": top1}}

    def grade(ours, untrained, pixels):
        baselines = {"random_init": row(untrained), "pixels": row(pixels)}
        found = verdicts.check_results(Results.from_json({"step": 1, **row(ours), **baselines}))
        return [(verdict.grade, verdict.title) for verdict in found]

    assert grade(0.9, 0.8, 0.7) == [("good", "above both baselines")]
    assert grade(0.9, 0.8, 0.95) == [("warning", "no better than raw pixels")]
    assert grade(0.7, 0.7, 0.6) == [("bad", "no better than untrained")]
    assert verdicts.check_results(Results.from_json({"step": 1, **row(0.9)})) == []


def test_a_run_past_its_best_is_distinguished_from_one_that_rises():
    def online(*scores):
        return [{"step": i, "knn.top1": score} for i, score in enumerate(scores)]

    assert verdicts.check_online(online(0.5, 0.7, 0.695)) == []
    (found,) = verdicts.check_online(online(0.5, 0.7, 0.6))
    assert "70.0 % at step 1 and is 60.0 % now" in found.detail


def test_nearest_neighbours_are_the_loops_whatever_the_block():
    x = np.random.default_rng(0).normal(size=(37, 5))
    x[7] = 0.0
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    for i, found in enumerate(nearest(x, 4, block_size=10)):
        others = [j for j in range(len(x)) if j != i]
        expected = sorted(others, key=lambda j: -(unit[i] @ unit[j]))[:4]
        if i != 7:  # a zero row is equally similar to all others
            assert found.tolist() == expected
        assert i not in found


def test_health_of_known_features():
    """Two classes on opposite corners of the sphere: every metric has a closed form."""
    labels = np.array([0, 1] * 10)
    images = np.where(labels[:, None, None, None] == 0, 255, 0) * np.ones((1, 8, 8, 1))
    source = ArraySource("corners", images.astype(np.uint8), labels)

    def sides(part):
        sign = np.where(part.images.reshape(len(part), -1).mean(axis=1) > 127, 1.0, -1.0)
        return np.stack([sign, np.zeros_like(sign), np.zeros_like(sign)], axis=1)

    policy = tiny.replace(tiny.config(), "augment", jitter=(0.0,), solarize=(0.0,)).augment
    found = health.Health(source, policy, size=8, seed=0, modality=IMAGE).metrics(sides)
    value = {name.removeprefix("features."): figure for name, figure in found.items()}
    assert value["rows"] == 20
    assert value["rank_limit"] == 3
    assert value["alignment"] == pytest.approx(0.0, abs=1e-6)
    assert value["rankme"] == pytest.approx(1.0, abs=1e-4)
    assert value["std"] == pytest.approx(1.0, rel=1e-6)  # mean 0: the whole norm varies
    assert value["dead"] == pytest.approx(2 / 3)
    assert value["neighbour_purity"] == 1.0
    assert value["purity_chance"] == 0.5
    # 9 of 19 others at distance 0, 10 at squared distance 4.
    assert value["uniformity"] == pytest.approx(math.log((9 + 10 * math.exp(-8)) / 19), rel=1e-5)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_trust_ratios_are_those_of_the_papers_formula(clip_norm):
    options = OptimizerConfig(name="lars", weight_decay=1e-2, clip_norm=clip_norm)
    rng = np.random.default_rng(0)
    shapes = {"a": (4, 3), "b": (2, 5), "zero": (3, 3)}
    params = {
        name: {"kernel": rng.normal(size=shape), "bias": rng.normal(size=3)}
        for name, shape in shapes.items()
    }
    params["zero"]["kernel"] *= 0.0
    grads = jax.tree.map(lambda w: rng.normal(size=w.shape), params)
    length = math.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
    shrink = 1.0 if clip_norm is None else clip_norm / length
    expected = [1.0]  # a kernel of zeros is not adapted
    for name in ("a", "b"):
        w, g = params[name]["kernel"], shrink * grads[name]["kernel"]
        expected.append(1e-3 * np.linalg.norm(w) / np.linalg.norm(g + 1e-2 * w))
    found = make_trust_ratio_metrics(options, 100)(
        jax.tree.map(jnp.asarray, grads), jax.tree.map(jnp.asarray, params), jnp.int32(0)
    )
    values = [float(found[f"trust_ratio_{kind}"]) for kind in ("min", "median", "max")]
    np.testing.assert_allclose(values, sorted(expected), rtol=1e-5)
    assert make_trust_ratio_metrics(OptimizerConfig(name="sgd"), 100) is None


# ------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    source = tiny.image_source(160)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=source.images, labels=source.labels)
    return str(path)


def train(arrays, folder, *, epochs=3, **method):
    config = tiny.config(epochs=epochs, evaluate_every=1)
    config = tiny.replace(config, "evaluate", knn_k=5, batch_size=16)
    config = tiny.replace(config, "data", source=arrays)
    return cssl_jax.pretrain(tiny.replace(config, "method", **method), folder)


@pytest.mark.slow
def test_a_run_at_temperature_100_is_called_at_chance_once_and_in_its_results(
    arrays, tmp_path, capfd
):
    train(arrays, tmp_path / "run", temperature=100.0)
    assert capfd.readouterr().err.count("at chance: loss") == 1
    found = {verdict.title: verdict for verdict in open_run(tmp_path / "run").verdicts}
    assert found["at chance"].grade == "bad"
    assert "at temperature 100" in found["at chance"].detail
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert not [text for text in lines if "images_per_second" in json.loads(text)]


@pytest.mark.slow
def test_a_constant_encoder_is_called_collapsed_to_a_point(arrays, tmp_path, capfd, monkeypatch):
    class Constant(tiny.ENCODERS["tiny"].build.func):
        def __call__(self, x, train=False, keys=None, keep=None):
            out = super().__call__(x, train)
            return {**out, "features": 1.0 + 1e-3 * jnp.tanh(out["features"])}

    partial = tiny.ENCODERS["tiny"].build
    entry = EncoderEntry(build=lambda **options: Constant(*partial.args, **options))
    monkeypatch.setitem(tiny.ENCODERS, "tiny", entry)
    train(arrays, tmp_path / "run", temperature=0.2)
    assert capfd.readouterr().err.count("collapsed to a point: ") == 1
    assert "collapsed to a point" in titles(open_run(tmp_path / "run").verdicts)


@pytest.mark.slow
def test_lars_runs_log_their_trust_ratios(arrays, tmp_path):
    config = tiny.config(epochs=1, evaluate_every=0)
    config = tiny.replace(config, "data", source=arrays)
    config = tiny.replace(config, "optimizer", name="lars", weight_decay=1e-6)
    cssl_jax.pretrain(config, tmp_path / "run")
    last = open_run(tmp_path / "run").steps[-1]
    assert 0 < last["trust_ratio_min"] <= last["trust_ratio_median"] <= last["trust_ratio_max"]


def test_steps_whose_update_was_skipped_are_not_checked():
    skipped = line(step=60, loss=None, trust_ratio_median=None)
    stuck = line(step=59, loss=CHANCE, entropy=CHANCE)
    assert titles(verdicts.check_steps([stuck, skipped], KNOWN)) == ["at chance"]
    assert verdicts.check_steps([skipped], KNOWN) == []
