"""Sources of images of any size, and identical views from both host loaders."""

import dataclasses
import functools
import itertools
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.config.images import ImageOptions
from cssl_jax.data.pipeline import host_draws
from cssl_jax.data.pipeline import threads as thread_pipeline
from cssl_jax.data.pipeline.eval_views import view_pairs
from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.sources.images import ImageSource
from cssl_jax.data.sources.open import load_source
from cssl_jax.errors import RunError, UserError
from cssl_jax.modalities.image import IMAGE
from helpers import lossless_jpeg
from helpers.augment_oracles import POLICIES, only
from tests.helpers.marks import slow

SIZE = 24
SIZES = [(31, 45), (60, 40), (24, 24), (25, 90), (17, 16), (48, 48)]


def smooth(height, width, seed):
    """Image of smooth colour, which JPEG compresses well, unlike noise."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8))
    return coarse.resize((width, height), PIL.Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder of two classes: JPEGs in colour and grey, PNGs, and JPEGs with EXIF rotation."""
    monkeypatch.setenv("CSSL_JAX_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "images"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES * 2):
        image = smooth(height, width, number)
        class_folder = root / ("cat", "dog")[number % 2]
        if number % 5 == 3:
            image.save(class_folder / f"{number:02}.png")
        elif number % 5 == 4:
            exif = PIL.Image.Exif()
            exif[0x0112] = 6  # EXIF orientation: rotate clockwise
            image.save(class_folder / f"{number:02}.jpg", exif=exif)
        else:
            image.convert("L" if number % 5 == 2 else "RGB").save(class_folder / f"{number:02}.jpg")
    return root


def loader(name):
    """Function like ``batches`` of a loader, with the views of the only group."""
    if name == "threads":
        module = thread_pipeline
    else:
        pytest.importorskip("tensorflow")
        from cssl_jax.data.pipeline import tf as module

    def batches(job, start, stop):
        for batch in module.batches(job, start, stop):
            yield {**batch, "views": batch["views"]["main"]}

    return batches


def make_job(source, policy=POLICIES["everything"], **options):
    options = {"whole": False, "rows": np.arange(4), **options}
    sampler = Sampler(len(source), 4, seed=3)
    groups = {"main": SizedGroup(count=2, size=SIZE, policy=policy)}
    return ViewJob(source=source, sampler=sampler, groups=groups, **options)


def assert_same_bits(batches, expected):
    for batch, other in itertools.zip_longest(batches, expected):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_a_folder_becomes_a_source_with_labels_names_and_sizes(folder):
    source = load_source(str(folder))
    assert isinstance(source, ImageSource)
    assert len(source) == 12
    assert source.num_classes == 2
    assert list(source.names[:2]) == ["cat/00.jpg", "cat/02.jpg"]
    np.testing.assert_array_equal(source.labels, [0] * 6 + [1] * 6)
    shapes = [source.image(i).shape for i in range(12)]
    np.testing.assert_array_equal(source.sizes, [shape[:2] for shape in shapes])
    assert (
        source.sizes.dtype == np.int32
    )  # with x64 enabled, the draws of the host accept no other type
    assert {shape[2] for shape in shapes} == {3}
    subset = source.take(np.array([7, 2]))
    np.testing.assert_array_equal(subset.image(1), source.image(2))
    assert list(subset.labels) == [1, 0]
    assert subset.fingerprint() != source.fingerprint()


def test_statistics_match_float64_with_the_same_weight_per_image(folder):
    source = load_source(str(folder))
    images = [source.image(i) / 255 for i in range(len(source))]
    mean = np.mean([x.mean(axis=(0, 1)) for x in images], axis=0)
    std = np.sqrt(np.mean([(x**2).mean(axis=(0, 1)) for x in images], axis=0) - mean**2)
    np.testing.assert_allclose(source.statistics(), (mean, std), rtol=1e-9)


def test_the_option_channels_converts_to_grey(folder):
    source = load_source(str(folder), ImageOptions(channels=1))
    grey = np.asarray(PIL.Image.open(folder / "dog" / "03.png").convert("L"))
    number = list(source.names).index("dog/03.png")
    np.testing.assert_array_equal(source.image(number)[..., 0], grey)


@pytest.mark.parametrize("channels", [slow(1), 3])
def test_tensorflow_and_threads_crop_the_same_views(folder, channels):
    source = load_source(str(folder), ImageOptions(channels=channels))
    assert 0 < source.plain_jpeg.sum() < len(source)
    for ours, theirs in zip(
        loader("tf")(make_job(source), 0, 6), loader("threads")(make_job(source), 0, 6), strict=True
    ):
        np.testing.assert_array_equal(ours["index"], theirs["index"])
        np.testing.assert_array_equal(ours["key"], theirs["key"])
        assert ours["views"].shape == (4, 2, SIZE, SIZE, channels)
        difference = np.abs(ours["views"].astype(int) - theirs["views"])
        # Float32 sums in another order may round a half to another level.
        assert difference.max() <= 1
        assert (difference > 0).mean() < 2e-3


def test_opencv_and_compiled_jax_give_the_same_views(folder):
    """Includes the positions of the windows and the decoding of JPEGs."""
    source = load_source(str(folder))
    for ours, theirs in zip(
        loader("threads")(make_job(source, whole=True, kernels="opencv"), 0, 6),
        loader("threads")(make_job(source, whole=True), 0, 6),
        strict=True,
    ):
        np.testing.assert_array_equal(ours["index"], theirs["index"])
        assert np.abs(ours["views"].astype(int) - theirs["views"]).max() <= 1


def test_tensorflow_and_threads_apply_the_same_policy(folder):
    source = load_source(str(folder))
    for ours, theirs in zip(
        loader("tf")(make_job(source, whole=True), 0, 3),
        loader("threads")(make_job(source, whole=True), 0, 3),
        strict=True,
    ):
        difference = np.abs(ours["views"].astype(int) - theirs["views"])
        assert difference.max() <= 2
        assert difference.mean() <= 0.3


@pytest.mark.parametrize("whole", [slow(False), True])
def test_tensorflow_and_threads_agree_without_antialiasing(folder, whole):
    source = load_source(str(folder))
    policy = dataclasses.replace(
        POLICIES["everything"], interpolation="bilinear", antialias=False, dct_scaling=False
    )
    for ours, theirs in zip(
        loader("tf")(make_job(source, policy, whole=whole), 0, 3),
        loader("threads")(make_job(source, policy, whole=whole), 0, 3),
        strict=True,
    ):
        difference = np.abs(ours["views"].astype(int) - theirs["views"])
        assert difference.max() <= (2 if whole else 1)
        assert difference.mean() <= 0.3


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Folder of images much larger than a view: JPEGs, a PNG and a JPEG with EXIF rotation."""
    monkeypatch.setenv("CSSL_JAX_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "photos"
    root.mkdir()
    for number, (height, width) in enumerate([(230, 315), (401, 203), (97, 150), (60, 60)]):
        smooth(height, width, number).save(root / f"{number}.jpg", quality=95)
    smooth(300, 300, 9).save(root / "plain.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    smooth(300, 310, 8).save(root / "turned.jpg", exif=exif)
    return root


def test_large_jpegs_are_decoded_reduced_if_both_windows_allow_it(photos):
    source = load_source(str(photos))
    policy = only(crop=(1.0,), crop_area=(0.3, 1.0))
    job = make_job(source, policy)
    draw = host_draws.draws(job)
    observed = set()
    for step in range(8):
        index, key = job.sampler.draw(step, job.rows)
        all_halvings, drawn = draw(index, key)
        drawn_boxes = drawn["main"]["box"]
        for number, boxes, halvings in zip(index, drawn_boxes, all_halvings, strict=True):
            side = min(min(box[2:]) for box in boxes.tolist())
            expected = max(n for n in range(4) if n == 0 or side >= SIZE * 2**n)
            plain = source.names[number].endswith("jpg") and source.names[number][0] != "t"
            assert halvings == (expected if plain else 0)
            observed.add(int(halvings))
    assert {0, 1, 2} <= observed


@pytest.mark.parametrize("name", [slow("tf"), "threads"])
def test_views_of_reduced_jpegs_match_those_of_full_size_to_less_than_a_pixel(photos, name):
    source = load_source(str(photos))
    policy = only(crop=(1.0,), crop_area=(0.3, 1.0), interpolation="bilinear")
    whole = dataclasses.replace(policy, dct_scaling=False)
    for small, large in zip(
        loader(name)(make_job(source, policy), 0, 6),
        loader(name)(make_job(source, whole), 0, 6),
        strict=True,
    ):
        difference = np.abs(small["views"].astype(int) - large["views"])
        assert difference.mean() < 4  # windows move by up to one pixel of the decoded image
        assert difference.mean() > 0


def test_tensorflow_and_threads_agree_on_reduced_jpegs(photos):
    source = load_source(str(photos))
    policy = only(crop=(1.0,), crop_area=(0.3, 1.0), interpolation="bilinear")
    job = make_job(source, policy)
    for ours, theirs in zip(loader("tf")(job, 0, 6), loader("threads")(job, 0, 6), strict=True):
        difference = np.abs(ours["views"].astype(int) - theirs["views"])
        assert difference.max() <= 1
        assert (difference > 0).mean() < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize("name", ["tf", "threads"])
def test_a_process_ends_with_unused_batches(photos, name, attempt):
    if name == "tf":
        pytest.importorskip("tensorflow")
    code = f"""
import numpy as np
from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.data.pipeline.registry import PIPELINES
from cssl_jax.data.sources.open import load_source
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.modalities.image import IMAGE
source = load_source({str(photos)!r})
batches = PIPELINES["{name}-split"](
    source=source, sampler=Sampler(6, 4, seed=0),
    groups={{"main": SizedGroup(count=2, size=24, policy=ImagePolicy())}},
    spec=ImageSpec(24, 3, (0.0,) * 3, (1.0,) * 3), modality=IMAGE, rows=np.arange(4),
).host_batches(0, 10**6)
for _ in range(5):
    next(batches)
print("done")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.stdout == "done\n", ran.stderr
    assert ran.returncode == 0


@pytest.mark.parametrize("name", ["tf", "threads"])
@pytest.mark.parametrize(
    ("kernels", "whole"), [slow("jax", False), slow("jax", True), ("opencv", True)]
)
def test_the_views_do_not_depend_on_start_parallelism_or_rows(folder, name, whole, kernels):
    source = load_source(str(folder))
    batches = loader(name)
    job = functools.partial(make_job, kernels=kernels)
    reference = list(batches(job(source, whole=whole, parallelism=1), 0, 4))
    assert_same_bits(batches(job(source, whole=whole, parallelism=3), 2, 4), reference[2:])
    rows = np.array([3, 1])
    expected = [{key: value[rows] for key, value in batch.items()} for batch in reference]
    assert_same_bits(batches(job(source, whole=whole, rows=rows), 0, 4), expected)


@pytest.mark.parametrize("kernels", [slow("jax"), "opencv"])
@pytest.mark.parametrize("name", ["tf", "threads"])
def test_without_a_crop_a_view_is_the_centre_square(folder, name, kernels):
    source = load_source(str(folder))
    policy = only(interpolation="bilinear", dct_scaling=False)
    (batch,) = loader(name)(make_job(source, policy, kernels=kernels), 0, 1)
    squares = np.concatenate([block["image"] for block in source.blocks(5, SIZE)])
    difference = np.abs(batch["views"][:, 0].astype(int) - squares[batch["index"]])
    assert difference.max() <= 1


@pytest.mark.parametrize("kernels", [slow("jax"), "opencv"])
@pytest.mark.parametrize("name", ["tf", "threads"])
def test_an_image_that_changed_during_the_run_is_named(folder, name, kernels):
    source = load_source(str(folder))
    job = functools.partial(make_job, kernels=kernels)
    for path in folder.rglob("*.*"):
        path.write_bytes(b"not an image any more")
    with pytest.raises(RunError, match=r"(cat|dog)/\d\d\.\w+ has changed since the run began"):
        list(loader(name)(job(source), 0, 3))
    for path in folder.rglob("*.*"):
        path.unlink()
    with pytest.raises(RunError, match="can no longer be read"):
        list(loader(name)(job(source), 0, 3))


def test_images_of_one_size_are_decoded_once_into_an_array(folder, tmp_path):
    root = tmp_path / "uniform"
    root.mkdir()
    for number in range(6):
        smooth(20, 30, number).save(root / f"{number}.png")
    source = load_source(str(root))
    assert isinstance(source, ArraySource)
    assert source.images.shape == (6, 20, 30, 3)
    assert source.labels is None
    np.testing.assert_array_equal(source.images[4], np.asarray(smooth(20, 30, 4)))
    assert list(source.take(np.array([5])).names) == ["5.png"]
    assert isinstance(load_source(str(root), ImageOptions(in_memory=False)), ImageSource)
    with pytest.raises(UserError, match=r"in_memory needs images of one size; .* from 16 to 90"):
        load_source(str(folder), ImageOptions(in_memory=True))


def pairs_of(source, policy, seed):
    blocks = view_pairs(source, policy, size=SIZE, seed=seed, modality=IMAGE)
    return np.concatenate([block["image"] for block in blocks])


def test_evaluation_views_are_in_order_and_depend_on_the_seed(folder):
    source = load_source(str(folder)).take(np.arange(7))
    policy = only(crop=(1.0,), crop_area=(0.9, 1.0))
    pairs = pairs_of(source, policy, seed=1)
    assert pairs.shape == (7, 2, SIZE, SIZE, 3)
    assert np.any(pairs[:, 0] != pairs[:, 1])
    squares = np.concatenate([block["image"] for block in source.blocks(8, SIZE)]).astype(float)
    # A crop of almost the whole image is closer to its image than to any other.
    distances = np.abs(pairs[:, None, 0].astype(float) - squares[None]).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(distances.argmin(axis=1), np.arange(7))
    again = pairs_of(source, policy, seed=1)
    np.testing.assert_array_equal(pairs, again)
    other = pairs_of(source, policy, seed=2)
    assert np.any(pairs != other)


def test_a_source_and_its_subsets_list_the_excluded_images(folder):
    (folder / "cat" / "broken.jpg").write_bytes(b"\xff\xd8 but no more")
    source = load_source(str(folder), ImageOptions(max_rejected=0.5))
    ((name, reason, _),) = source.take(np.array([0])).rejected
    assert (name, reason) == ("cat/broken.jpg", "unreadable")
    with pytest.raises(UserError, match=r"data\.max_rejected"):
        load_source(str(folder), dataclasses.replace(ImageOptions(), max_rejected=0.01))


def test_a_file_that_only_tensorflow_cannot_decode_is_named_with_a_loader_that_can(folder):
    tf_batches = loader("tf")
    pixels = np.full((40, 40), 128, np.uint8)
    (folder / "cat" / "lossless.jpg").write_bytes(lossless_jpeg.encode(pixels))
    source = load_source(str(folder))
    assert (
        len(list(tf_batches(make_job(source), 0, 4))) == 4
    )  # Pillow decodes it also for this loader
    plain = dataclasses.replace(source.index, plain_jpeg=source.index.plain_jpeg | True)
    wrong = dataclasses.replace(source, index=plain)
    wrong = wrong.take(np.flatnonzero(np.char.endswith(wrong.names, ".jpg")))
    with pytest.raises(RunError) as caught:
        list(tf_batches(make_job(wrong), 0, 8))
    assert "cat/lossless.jpg: TensorFlow cannot decode it" in str(caught.value)
    assert "--data.engine threads" in str(caught.value)
