"""Sets of images: each function breaks a file of one format and reads it.

They take ``draw`` of Hypothesis, ``broken`` (see ``mutations``) and an empty folder.
"""

import io
import zipfile

import numpy as np
from hypothesis import strategies as st

from helpers.fuzzing.contract import MOST_PIXELS, check_set, one_message
from helpers.fuzzing.samples import (
    CLASSES,
    GOOD,
    IMAGES,
    MASKS,
    NO_MASKS,
    make_parquet,
    make_tar,
    make_tfrecord,
    npzs,
    parquets,
    pixels,
    tars,
)
from helpers.fuzzing.tfds_samples import prepared_sets


def fuzz_folder(draw, broken, folder):
    root = folder / "images"
    root.mkdir()
    for i, content in enumerate(GOOD):
        (root / f"good{i}.png").write_bytes(content)
    kinds = sorted(IMAGES)
    for i in range(draw(st.integers(1, 4))):
        kind, name = draw(st.sampled_from(kinds)), draw(st.sampled_from(kinds))
        content = draw(st.sampled_from(IMAGES[kind]))
        other = draw(st.sampled_from(IMAGES[draw(st.sampled_from(kinds))]))
        name = kind if draw(st.booleans()) else name  # a suffix may be wrong
        (root / f"{i}.{name}").write_bytes(broken(draw, content, other))
    check_set(str(root), folder, [f"good{i}.png" for i in range(len(GOOD))])


def broken_images(draw, broken):
    chosen = [draw(st.sampled_from(IMAGES[kind])) for kind in ("png", "jpg", "webp", "tif")]
    return [GOOD[0], *(broken(draw, content, GOOD[1]) for content in chosen)]


def fuzz_tar(draw, broken, folder):
    """The shard is broken, or what a whole one holds."""
    if draw(st.booleans()):
        text = broken(draw, b'{"label": 1, "words": "a photo"}', b"{}")
        content = make_tar(contents=broken_images(draw, broken), text=text)
    else:
        content = broken(draw, draw(st.sampled_from(tars())), draw(st.sampled_from(tars())))
    (folder / "a.tar").write_bytes(content)
    check_set(str(folder / "a.tar"), folder)


def fuzz_parquet(draw, broken, folder):
    if draw(st.booleans()):
        content = make_parquet(broken_images(draw, broken))
    else:
        content = broken(draw, draw(st.sampled_from(parquets())), draw(st.sampled_from(parquets())))
    (folder / "a.parquet").write_bytes(content)
    check_set(str(folder / "a.parquet"), folder)


def fuzz_tfds(draw, broken, folder):
    """A prepared set: its records, or what describes them."""
    root = folder / "set" / "1.0.0"
    root.mkdir(parents=True)
    files = draw(st.sampled_from(prepared_sets()))
    chosen = draw(st.sampled_from(sorted(files)))
    for name, content in files.items():
        content = broken(draw, content, content) if name == chosen else content
        (root / name).write_bytes(content)
    check_set(f"tfds:{root}@train", folder)


def fuzz_tfrecord(draw, broken, folder):
    from cssl_jax.data.formats.shards import open_shard
    from cssl_jax.data.formats.tfrecord import open_tfrecords

    content = make_tfrecord(GOOD)
    (folder / "a.tfrecord").write_bytes(broken(draw, content, content))
    shard = open_shard(folder / "a.tfrecord", folder)
    found = one_message(open_tfrecords, [shard])
    for i in range(min(len(found.sizes[0]), 50)):
        assert len(found.read(0, i)) == found.sizes[0][i]


def fuzz_npz(draw, broken, folder):
    from cssl_jax.data.sources.open import load_source

    if draw(st.booleans()):  # whole to zip, broken to NumPy
        arrays = {"images": np.stack([pixels(i) for i in range(3)]), "labels": np.arange(3)}
        write_broken_members(draw, broken, folder / "a.npz", arrays)
    else:
        content = broken(draw, draw(st.sampled_from(npzs())), draw(st.sampled_from(npzs())))
        (folder / "a.npz").write_bytes(content)
    source = one_message(load_source, str(folder / "a.npz"))
    assert source.images.dtype == np.uint8
    assert source.images.ndim == 4


def write_broken_members(draw, broken, path, arrays):
    """An .npz file that is whole to zip, with members that are broken to NumPy."""
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            content = member.getvalue()
            file.writestr(f"{name}.npy", broken(draw, content, content))


def fuzz_list(draw, broken, folder):
    names = [f"p{i}.png" for i in range(3)]
    for name, content in zip(names, GOOD, strict=True):
        (folder / name).write_bytes(content)
    text = "path,label,class\n" + "".join(f"{n},{i},kind {i}\n" for i, n in enumerate(names))
    (folder / "a.csv").write_bytes(broken(draw, text.encode(), text.encode()))
    check_set(str(folder / "a.csv"), folder)


def fuzz_labels(draw, broken, folder):
    """A labels file beside a folder of images."""
    root = folder / "images"
    root.mkdir()
    for name, content in zip("abc", GOOD, strict=True):
        (root / f"{name}.png").write_bytes(content)
    text = "path,label,class\n" + "".join(f"{n}.png,{i},kind {i}\n" for i, n in enumerate("abc"))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    content = broken(draw, text.encode(encoding), text.encode())
    (folder / "labels.csv").write_bytes(content)
    source = one_message(load_labelled, root, folder / "labels.csv")
    assert len(source) == len(GOOD)
    assert source.labels is None or source.labels.min() >= -1


def load_labelled(root, table):
    from cssl_jax.config.images import ImageOptions
    from cssl_jax.data.sources.open import load_source

    return load_source(str(root), ImageOptions(labels=str(table)))


def fuzz_masks(draw, broken, folder):
    """A folder of images with masks, of which one is broken or of another format; or an archive."""
    if draw(st.booleans()):
        for part in ("images", "masks"):
            (folder / part).mkdir()
        for i in range(2):
            (folder / "images" / f"{i}.png").write_bytes(GOOD[i])
            (folder / "masks" / f"{i}.png").write_bytes(MASKS[0])
        chosen = draw(st.sampled_from([*MASKS, *MASKS, *NO_MASKS]))
        if draw(st.booleans()):
            chosen = broken(draw, chosen, draw(st.sampled_from(MASKS)))
        (folder / "masks" / "1.png").write_bytes(chosen)
        check_masks(folder)
    else:
        arrays = {
            "images": np.stack([pixels(i) for i in range(2)]),
            "masks": np.stack([CLASSES] * 2),
        }
        write_broken_members(draw, broken, folder / "a.npz", arrays)
        check_masks(folder / "a.npz")


def check_masks(spec):
    from cssl_jax.config.images import ImageOptions
    from cssl_jax.data.sources.segmentation_masks import load_masks

    source = one_message(load_masks, str(spec), ImageOptions(max_pixels=MOST_PIXELS))
    assert 2 <= source.num_classes <= 255
    for images, masks in source.blocks(64, 8):
        assert len(images) == len(masks)
        assert masks.shape[1:] == (8, 8)
        assert masks.dtype == np.uint8
