"""Two processes train on masked series of a user's modality as two devices of one process do."""

import json
import pathlib

import pytest

import cssl_jax
from cssl_jax import recipes
from helpers import multiprocess, tiny, waves

pytestmark = pytest.mark.slow
FILE = pathlib.Path(waves.__file__)
# What a sum rounds in another order: Gloo's over two processes, XLA's over two devices of one.
BOUND = 1e-5


@pytest.fixture(scope="module", autouse=True)
def trusted():
    with cssl_jax.trusting_code():
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return waves.write(waves.source(60), None, 60, tmp_path_factory.mktemp("data") / "waves")


def config(file, source):
    small = recipes.with_modality(tiny.config(epochs=1, tensorboard=False), f"{file}:WAVES")
    return small.replace(
        {
            "data.source": source,
            "model.encoder": f"{file}:ENCODER",
            "evaluate.knn_k": 5,
            "evaluate.knn_ks": (),
            "evaluate.batch_size": 16,
            "evaluate.probe_seeds": 1,
            "evaluate.draws": 2,
        }
    )


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def two(source, tmp_path_factory):
    """Lines of the run on the modality and on its mutant, both by the same two processes."""
    root, calls = tmp_path_factory.mktemp("two"), []
    text, old = FILE.read_text(), 'impl="threefry2x32"), view)'
    assert text.count(old) == 1
    mutant = root / "mutant.py"
    mutant.write_text(text.replace(old, old.replace("view)", "view + 9 * jax.process_index())")))
    for name, file in (("modality", FILE), ("mutant", mutant)):
        recipe = root / f"{name}.json"
        recipe.write_text(recipes.to_json(config(file, source)))
        calls.append(["pretrain", str(recipe), "--workdir", str(root / name), "--trust-code"])
    (root / "calls.json").write_text(json.dumps(calls))
    children = multiprocess.start(multiprocess.CLI_SEVERAL, [str(root / "calls.json")], 2)
    ends = multiprocess.ends(children, timeout=500)
    assert [end.status for end in ends] == [0, 0], ends
    return {name: lines(root / name) for name in ("modality", "mutant")}


@pytest.fixture(scope="module")
def one(source, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "one"
    cssl_jax.pretrain(config(FILE, source), run)
    return lines(run)


def test_two_processes_compute_what_two_devices_of_one_do(one, two):
    found = two["modality"]
    assert [line["step"] for line in found] == [line["step"] for line in one]
    for ours, other in zip(found, one, strict=True):
        assert ours.keys() == other.keys()
        for name, value in other.items():
            assert ours[name] == pytest.approx(value, rel=BOUND, abs=BOUND), (other["step"], name)


def test_views_that_depend_on_the_process_are_caught(one, two):
    assert two["mutant"][0]["loss"] != pytest.approx(one[0]["loss"], rel=100 * BOUND)
