"""Adaptation and the segment protocol in two processes: what one with as many devices finds."""

import json
import shutil

import jax
import numpy as np
import PIL.Image
import pytest

from cssl_jax import load_encoder, pretrain
from cssl_jax.cli import main as cli
from helpers import multiprocess, tiny

pytestmark = pytest.mark.slow
BOUND = 1e-5  # as in test_joined_runs: Gloo's order of a sum and XLA's


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one process with two devices, which two processes of one device each take up."""
    folder = tmp_path_factory.mktemp("adapted")
    source = tiny.image_source(60)
    np.savez(folder / "source.npz", images=source.images, labels=source.labels)
    config = tiny.config(epochs=1, evaluate_every=0, tensorboard=False)
    config = tiny.replace(config, "data", source=str(folder / "source.npz"))
    pretrain(tiny.replace(config, "runtime", devices=2), folder / "run")
    return folder / "run"


def by_two(words):
    ends = multiprocess.ends(multiprocess.start(multiprocess.CLI, words, 2), timeout=500)
    assert [end.status for end in ends] == [0, 0], ends
    return [end.out for end in ends]


def folders(tmp_path, name):
    """41 images in files, some of them wider than others, with a class by brightness."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / name / part).mkdir(parents=True)
    for number in range(41):
        mask = np.kron(rng.integers(0, 3, (3, 3 + number % 2)), np.ones((4, 4))).astype(np.uint8)
        image = 80 * mask + rng.integers(0, 60, mask.shape).astype(np.uint8)
        for part, content in (("images", image), ("masks", mask)):
            PIL.Image.fromarray(content).save(tmp_path / name / part / f"{number}.png")
    return tmp_path / name


def test_two_processes_segment_as_one_does(run, tmp_path):
    scenes = folders(tmp_path, "scenes")  # 33 to fit on: the second has none of the last batch
    words = ["evaluate", "--protocol", "segment", "--data.source", str(scenes)]
    words += ["--data.channels", "1", "--data.in-memory", "False"]
    words += ["--evaluate.segment-pixels", "1000", "--evaluate.l2-values", "0.1"]
    for name in ("one", "two"):
        shutil.copytree(run, tmp_path / name)
    words[1:1] = [str(tmp_path / "one")]
    assert cli.main([*words, "--json", str(tmp_path / "one.json")]) == 0
    words[1] = str(tmp_path / "two")
    first, second = by_two([*words, "--json", str(tmp_path / "two.json")])
    assert "mean IoU" in first
    assert "mean IoU" not in second
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    results = json.loads((tmp_path / "two.json").read_text())
    assert results["split"] == {"train": 33, "validation": 8}
    assert sum(map(sum, results["segment"]["confusion"])) == 8 * 8 * 8  # every pixel once
    assert results["segment"]["mean_iou"] > 0.3
    kept = json.loads((tmp_path / "two" / "results.json").read_text())
    assert kept["transfer"][str(scenes)] == results


def test_two_processes_adapt_as_one_does(run, tmp_path):
    for name, source in (
        ("train", tiny.image_source(50, seed=1)),
        ("test", tiny.image_source(9, seed=2)),
    ):
        labels = {"labels": source.labels} if name == "test" else {}
        np.savez(tmp_path / f"{name}.npz", images=source.images // 2, **labels)
    words = ["adapt", str(run), "--target", str(tmp_path / "train.npz"), "--methods", "bn", "coral"]
    words += ["--adapt.target-validation", str(tmp_path / "test.npz")]
    words += ["--seeds", "1", "--train.epochs", "2", "--evaluate.l2-values", "0.1"]
    assert cli.main([*words, "--workdir", str(tmp_path / "one")]) == 0
    first, second = by_two([*words, "--workdir", str(tmp_path / "two")])
    assert "Deep CORAL" in first
    assert "No training example of the target has a label" in first
    assert "Deep CORAL" not in second
    one, two = (
        json.loads((tmp_path / name / "adaptation.json").read_text()) for name in ("one", "two")
    )
    rows = one.pop("rows"), two.pop("rows")
    assert two == one
    assert list(rows[1]) == ["source", "bn", "coral", "random", "pixels"]
    for row, domains in rows[0].items():
        for domain, metrics in domains.items():  # a tie may break otherwise: one image
            image = 1.001 / one["images"][f"{domain}_test"]
            assert rows[1][row][domain]["mean"] == pytest.approx(metrics["mean"], abs=image)
    names = [path.name for path in sorted((tmp_path / "one").iterdir())]
    assert [path.name for path in sorted((tmp_path / "two").iterdir())] == names
    for name in names[1:]:  # the first is the file of results
        models = [load_encoder(tmp_path / who / name) for who in ("one", "two")]
        leaves = [jax.tree.leaves(jax.device_get(encoder.model)) for encoder in models]
        largest = max(np.abs(leaf).max() for leaf in leaves[0])
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=BOUND * largest, err_msg=name)
    assert models[1].meta.keys() == models[0].meta.keys()


def test_processes_that_adapt_to_different_images_are_refused(run, tmp_path):
    for rank in range(2):
        np.savez(tmp_path / f"{rank}.npz", images=tiny.image_source(50, seed=rank).images)
    words = ["adapt", str(run), "--workdir", str(tmp_path / "out")]
    ends = multiprocess.run(
        multiprocess.CLI,
        words,
        2,
        of_rank={rank: ["--target", str(tmp_path / f"{rank}.npz")] for rank in range(2)},
    )
    assert [end.status for end in ends] == [2, 2], ends
    assert all("held-out target images: " in end.err for end in ends)
    assert not (tmp_path / "out").exists()
