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
    config = tiny.replace(config, "augment", jitter=(0.0,), blur=(0.0,), solarize=(0.0,))
    pretrain(tiny.replace(config, "runtime", devices=2), folder / "run")
    return folder / "run"


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


def segment(run, scenes, output):
    """Words of the segment protocol; of 33 scenes to fit on, the second has none of the last."""
    words = ["evaluate", str(run), "--protocol", "segment", "--data.source", str(scenes)]
    words += ["--data.channels", "1", "--data.in-memory", "False"]
    words += ["--evaluate.segment-pixels", "1000", "--evaluate.l2-values", "0.1"]
    return [*words, "--json", str(output)]


def adapt(run, targets, out):
    words = ["adapt", str(run), "--target", str(targets / "train.npz"), "--methods", "bn", "coral"]
    words += ["--adapt.target-validation", str(targets / "test.npz")]
    words += ["--seeds", "1", "--train.epochs", "2", "--evaluate.l2-values", "0.1"]
    return [*words, "--workdir", str(out)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of scenes, and files of target images."""
    root = tmp_path_factory.mktemp("data")
    folders(root, "scenes")
    for name, source in (
        ("train", tiny.image_source(50, seed=1)),
        ("test", tiny.image_source(9, seed=2)),
    ):
        labels = {"labels": source.labels} if name == "test" else {}
        np.savez(root / f"{name}.npz", images=source.images // 2, **labels)
    return root


@pytest.fixture(scope="module")
def two(run, folder, tmp_path_factory):
    """(folder of the results of both commands, what each process printed), by one pair."""
    root = tmp_path_factory.mktemp("two")
    shutil.copytree(run, root / "run")
    calls = [segment(root / "run", folder / "scenes", root / "segment.json")]
    calls += [adapt(run, folder, root / "adapted")]
    (root / "calls.json").write_text(json.dumps(calls))
    children = multiprocess.start(multiprocess.CLI_SEVERAL, [str(root / "calls.json")], 2)
    ends = multiprocess.ends(children, timeout=500)
    assert [end.status for end in ends] == [0, 0], ends
    return root, [end.out for end in ends]


def test_two_processes_segment_as_one_does(run, folder, two, tmp_path):
    root, (first, second) = two
    shutil.copytree(run, tmp_path / "run")
    one = segment(tmp_path / "run", folder / "scenes", tmp_path / "one.json")
    assert cli.main(one) == 0
    assert "mean IoU" in first
    assert "mean IoU" not in second
    assert (root / "segment.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    results = json.loads((root / "segment.json").read_text())
    assert results["split"] == {"train": 33, "validation": 8}
    assert sum(map(sum, results["segment"]["confusion"])) == 8 * 8 * 8  # every pixel once
    assert results["segment"]["mean_iou"] > 0.3
    kept = json.loads((root / "run" / "results.json").read_text())
    assert kept["transfer"][str(folder / "scenes")] == results


def test_two_processes_adapt_as_one_does(run, folder, two, tmp_path):
    root, (first, second) = two
    assert cli.main(adapt(run, folder, tmp_path / "one")) == 0
    assert "Deep CORAL" in first
    assert "No training example of the target has a label" in first
    assert "Deep CORAL" not in second
    outs = [tmp_path / "one", root / "adapted"]
    one, joint = (json.loads((out / "adaptation.json").read_text()) for out in outs)
    rows = one.pop("rows"), joint.pop("rows")
    assert joint == one
    assert list(rows[1]) == ["source", "bn", "coral", "random", "pixels"]
    for row, domains in rows[0].items():
        for domain, metrics in domains.items():  # a tie may break otherwise: one image
            image = 1.001 / one["images"][f"{domain}_test"]
            assert rows[1][row][domain]["mean"] == pytest.approx(metrics["mean"], abs=image)
    names, theirs = ([path.name for path in sorted(out.iterdir())] for out in outs)
    assert theirs == names
    for name in names[1:]:  # the first is the file of results
        models = [load_encoder(out / name) for out in outs]
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
