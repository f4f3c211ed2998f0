"""load_encoder: every documented way to call the encoder of a run from Python."""

import logging
import pathlib
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

import cssl_jax
from cssl_jax.cli import main as cli
from cssl_jax.config.images import ImageOptions
from cssl_jax.data.sources.open import load_source
from cssl_jax.errors import UserError
from cssl_jax.evaluate.protocols.knn import knn
from helpers import tiny

DOCS = pathlib.Path(cssl_jax.__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one epoch on grey images of 8 x 8 pixels, which are also saved as a folder."""
    place = tmp_path_factory.mktemp("calls")
    source = tiny.image_source(60)
    np.savez(place / "images.npz", images=source.images, labels=source.labels)
    (place / "folder").mkdir()
    for i, image in enumerate(source.images[:5]):
        PIL.Image.fromarray(image[..., 0]).save(place / "folder" / f"{i}.png")
    (place / "folder" / "broken.png").write_bytes(b"no image")
    config = tiny.config(epochs=1)
    config = tiny.replace(config, "data", source=str(place / "images.npz"), channels=1)
    config = tiny.replace(config, "evaluate", knn_k=5, batch_size=16)
    cssl_jax.pretrain(config, place / "run")
    return place / "run", source.images


@pytest.fixture(scope="module")
def encoder(run):
    return cssl_jax.load_encoder(run[0])


def test_a_source_is_a_path_or_a_text_and_nothing_else(run, tmp_path):
    path = run[0].parent / "folder"
    options = ImageOptions(channels=1, max_rejected=0.5)
    assert len(load_source(path, options)) == len(load_source(str(path), options)) == 5
    assert len(load_source(run[0].parent / "images.npz")) == 60
    with pytest.raises(UserError, match="is of type ndarray; give a path or a name"):
        load_source(run[1])


def test_the_encoder_takes_paths_arrays_and_sources(run, encoder):
    place, images = run
    features = encoder(images)
    path = place.parent / "images.npz"
    for given in (path, str(path), load_source(path), images):
        np.testing.assert_array_equal(encoder.embed(given), features)


def test_images_of_several_sizes_are_answered(encoder):
    ragged = [np.zeros((8, 8, 1), np.uint8), np.zeros((9, 8, 1), np.uint8)]
    with pytest.raises(UserError, match=r"several sizes; give one array uint8 \[N, H, W, C\]"):
        encoder(ragged)
    with pytest.raises(UserError, match="images are float64"):
        encoder([[0.0, 1.0]])


def test_the_maps_of_the_stages_are_those_of_the_encoder(run, encoder):
    images = run[1][:20]  # more than one batch of 16
    found = encoder(images, layers=(1, 2))
    assert set(found) == {"features", "stage1", "stage2"}
    np.testing.assert_array_equal(found["features"], encoder(images))
    assert found["stage2"].dtype == np.float32
    # The features are the mean of the last stage's map.
    np.testing.assert_allclose(found["stage2"].mean(axis=(1, 2)), found["features"], rtol=1e-4)
    with pytest.raises(UserError, match="layer 3 is no stage; this encoder has 1 to 2"):
        encoder(images, layers=(3,))


def test_opening_an_encoder_prints_nothing(run, capfd):
    logging.getLogger("absl").setLevel(logging.WARNING)
    cssl_jax.load_encoder(run[0])
    assert capfd.readouterr().err == ""
    assert logging.getLogger("absl").level == logging.WARNING


def test_embed_takes_the_option_that_it_advises_and_stores_what_it_omits(run, tmp_path, capsys):
    place, _ = run
    words = ["embed", str(place), "--data.source", str(place.parent / "folder")]
    words += ["--output", str(tmp_path / "f.npz")]
    assert cli.main(words) == 2
    assert "raise --data.max-rejected" in capsys.readouterr().err
    assert cli.main([*words, "--data.max-rejected", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "1 of 6 images omitted:\n  broken.png: unreadable" in out
    content = np.load(tmp_path / "f.npz")
    assert len(content["features"]) == len(content["names"]) == 5
    assert content["rejected"].tolist() == [["broken.png", "unreadable"]]


def test_knn_as_documented():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    features = rng.normal(size=(60, 4)) + 5 * np.eye(4)[labels]
    found = knn(features[:40], labels[:40], features[40:], labels[40:], k=20)
    expected = knn(features[:40], labels[:40], features[40:], labels[40:], num_classes=3, k=20)
    assert found == expected
    assert found["top1"] > 0.9


@pytest.mark.slow
def test_every_name_of_the_package_in_the_documents_is_reached_without_an_import():
    names = set()
    for path in (DOCS / "README.md", *(DOCS / "docs").glob("*.md")):
        names |= set(re.findall(r"\bcssl_jax(?:\.[a-zA-Z_]\w*)+", path.read_text()))
    assert "cssl_jax.evaluate.knn" in names
    code = "import cssl_jax\n" + "\n".join(sorted(names))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
