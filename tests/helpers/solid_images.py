"""Perfectly separable image sets: every class is one colour, in every format with class names."""

import io
import json
import tarfile

import numpy as np
import PIL.Image

COLOURS = {
    "aphid": (20, 220, 220),
    "ant": (220, 30, 30),
    "bee": (30, 220, 30),
    "cat": (30, 30, 220),
    "dog": (220, 220, 30),
}
KINDS = ("folder", "mixed sizes", "list", "npz", "tar", "parquet")


def images(classes, count, seed=0, size=8):
    """[(class name, uint8 [size, size, 3])], count per class, in shades that all differ."""
    names = list(COLOURS)
    shades = {
        name: np.random.default_rng([seed, names.index(name)]).permutation(20)[:count] - 10
        for name in classes
    }
    return [
        (name, np.full((size, size, 3), COLOURS[name]) + shades[name][number])
        for name in classes
        for number in range(count)
    ]


def write(kind, path, classes, count=8, seed=0):
    """Writes a source with class names; returns what to give as data.source."""
    made = [(name, np.uint8(image)) for name, image in images(classes, count, seed)]
    return _WRITERS[kind](path, made)


def png(image, side=None):
    file = io.BytesIO()
    pil_image = PIL.Image.fromarray(image)
    (pil_image.resize((side, side)) if side else pil_image).save(file, "PNG")
    return file.getvalue()


def _folder(path, made, sides=(None,)):
    for number, (name, image) in enumerate(made):
        (path / name).mkdir(parents=True, exist_ok=True)
        (path / name / f"{number}.png").write_bytes(png(image, sides[number % len(sides)]))
    return str(path)


def _mixed_sizes(path, made):
    return _folder(path, made, (8, 9))


def _list(path, made):
    _folder(path, made)
    numbers = {name: i for i, name in enumerate(sorted({name for name, _ in made}))}
    rows = [f"{n}/{i}.png,{numbers[n]},{n}" for i, (n, _) in enumerate(made)]
    (path / "list.csv").write_text("\n".join(["path,label,class", *rows]))
    return str(path / "list.csv")


def _npz(path, made):
    path.mkdir(parents=True)
    classes = sorted({name for name, _ in made})
    labels = [classes.index(name) for name, _ in made]
    stacked = np.stack([image for _, image in made])
    np.savez(path / "a.npz", images=stacked, labels=labels, classes=classes)
    return str(path / "a.npz")


def _tar(path, made):
    path.mkdir(parents=True)
    with tarfile.open(path / "a.tar", "w") as tar:
        for number, (name, image) in enumerate(made):
            for suffix, content in (("png", png(image)), ("cls", name.encode())):
                info = tarfile.TarInfo(f"{number:04}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return f"wds:{path / 'a.tar'}"


def _parquet(path, made):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.mkdir(parents=True)
    names = sorted({name for name, _ in made})
    columns = {
        "image": [{"bytes": png(image), "path": None} for _, image in made],
        "label": [names.index(name) for name, _ in made],
    }
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    content = json.dumps({"info": {"features": features}})
    table = pa.table(columns).replace_schema_metadata({"huggingface": content})
    pq.write_table(table, path / "a.parquet")
    return str(path / "a.parquet")


_WRITERS = {
    "folder": _folder,
    "mixed sizes": _mixed_sizes,
    "list": _list,
    "npz": _npz,
    "tar": _tar,
    "parquet": _parquet,
}
