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
        }
    )


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def in_two_processes(changed, folder):
    recipe, run = folder / "recipe.json", folder / "two"
    recipe.write_text(recipes.to_json(changed))
    words = ["pretrain", str(recipe), "--workdir", str(run), "--trust-code"]
    ends = multiprocess.run(multiprocess.CLI, words, 2)
    assert [end.status for end in ends] == [0, 0], ends
    return run


@pytest.fixture(scope="module")
def one(source, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "one"
    cssl_jax.pretrain(config(FILE, source), run)
    return lines(run)


def test_two_processes_compute_what_two_devices_of_one_do(one, source, tmp_path):
    found = lines(in_two_processes(config(FILE, source), tmp_path))
    assert [line["step"] for line in found] == [line["step"] for line in one]
    for ours, other in zip(found, one, strict=True):
        assert ours.keys() == other.keys()
        for name, value in other.items():
            assert ours[name] == pytest.approx(value, rel=BOUND, abs=BOUND), (other["step"], name)


def test_views_that_depend_on_the_process_are_caught(one, source, tmp_path):
    text, old = FILE.read_text(), 'impl="threefry2x32"), view)'
    assert text.count(old) == 1
    mutant = tmp_path / "mutant.py"
    mutant.write_text(text.replace(old, old.replace("view)", "view + 9 * jax.process_index())")))
    found = lines(in_two_processes(config(mutant, source), tmp_path))
    assert found[0]["loss"] != pytest.approx(one[0]["loss"], rel=100 * BOUND)
