"""One look at every picture before a run: what is broken, a duplicate, or fine; cached."""

import collections
import dataclasses
import hashlib
import io
import json
import pathlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import PIL.Image

from cssl_jax.data.formats.base import Records
from cssl_jax.data.pipeline.thread_map import ahead
from cssl_jax.data.sources import decode
from cssl_jax.errors import UserError
from cssl_jax.files import csv_text, write_bytes, write_text
from cssl_jax.progress import bar

FORMAT = 4  # of the cache file; another number makes old ones void
_ROWS = {  # dtype and trailing shape; the channel statistics besides
    "height": (np.int64, ()),  # a header may claim anything below 2^32
    "width": (np.int64, ()),
    "bytes": (np.int64, ()),
    "plain_jpeg": (np.bool_, ()),
    "digest": (np.uint8, (16,)),
    "phash": (np.uint64, ()),
    "low": (np.uint8, ()),
    "high": (np.uint8, ()),
    "levels": (np.int64, ()),
}
Rejected = tuple[str, str, str]  # (name, reason, detail)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """What the scan found; arrays and tuples have one entry a record.

    Attributes:
        reason: "" for a record that is kept, else why it is left out: "empty", "unreadable",
            "truncated", "oversize", "too small" or "duplicate" (same bytes as an earlier one).
        detail: More about it.
        kind: Format and mode of the file, such as "JPEG RGB"; "" where unknown.
        height: int64 [n] in pixels, upright; 0 where unknown.
        width: int64 [n].
        bytes: int64 [n], of the file.
        plain_jpeg: bool [n]; TensorFlow's decoder gives the same pixels.
        digest: uint8 [n, 16], BLAKE2b of the file.
        phash: uint64 [n], perceptual hash; 0 where there is no structure to hash.
        low: uint8 [n], lowest value of any channel.
        high: uint8 [n], highest value of any channel.
        levels: int64 [n], number of values that occur in the channel with most; 1 is a blank image.
        mean: float64 [n, channels] on [0, 1].
        square: float64 [n, channels], mean of the squares.
    """

    reason: tuple[str, ...]
    detail: tuple[str, ...]
    kind: tuple[str, ...]
    height: np.ndarray
    width: np.ndarray
    bytes: np.ndarray
    plain_jpeg: np.ndarray
    digest: np.ndarray
    phash: np.ndarray
    low: np.ndarray
    high: np.ndarray
    levels: np.ndarray
    mean: np.ndarray
    square: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """int64 [k], numbers of the records that are kept."""
        return np.flatnonzero([not reason for reason in self.reason])


def scan(
    records: Records,
    *,
    channels: int,
    min_side: int,
    max_pixels: int,
    cache: pathlib.Path | None = None,
) -> Index:
    """Reads and decodes every record once, in threads; memory holds a few pictures a core.

    Args:
        records: To look at.
        channels: To which pictures are brought.
        min_side: Shorter sides are "too small".
        max_pixels: More are "oversize", and never decoded.
        cache: File of what is known: a record of the same name and stamp is not read again. Other
            limits need no new scan, and one that is interrupted goes on from where it was.
    """
    known = _load(cache, channels)
    facts: list[Any] = [known.get(key) for key in zip(records.names, records.stamps, strict=True)]
    unknown = [i for i, fact in enumerate(facts) if not (fact and _is_settled(fact, max_pixels))]
    if unknown:
        try:
            _examine(records, facts, unknown, channels, max_pixels)
        finally:
            _save(cache, records, facts, channels)
    return _judge(records.names, facts, channels, min_side, max_pixels)


def _is_settled(fact: dict[str, Any], max_pixels: int) -> bool:
    """Whether another look could tell no more."""
    if fact["reason"] == "oversize":  # by the limit of then, and not decoded
        return int(fact["height"]) * int(fact["width"]) > max_pixels
    # Permissions and mounts, which keep bytes from being read, leave no trace in a stamp.
    return fact["reason"] != "unreadable" or fact["bytes"] > 0


def _examine(
    records: Records, facts: list, unknown: list[int], channels: int, max_pixels: int
) -> None:
    progress = bar(iterable=unknown, desc=f"checking {records.name}", unit="picture", delay=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about single files; the index says what counts
        found = ahead(lambda i: examine(records, i, channels, max_pixels), unknown)
        for i, fact in zip(progress, found, strict=True):
            facts[i] = fact


def examine(records: Records, index: int, channels: int, max_pixels: int) -> dict[str, Any]:
    """What can be known of one record whatever the limits: the cached facts."""
    fact: dict[str, Any] = dict.fromkeys(("reason", "detail", "kind"), "")
    fact |= {name: np.zeros(shape, dtype) for name, (dtype, shape) in _ROWS.items()}
    fact |= {"mean": np.zeros(channels), "square": np.zeros(channels)}
    try:
        content = records.read(index)
    except (OSError, MemoryError) as error:
        detail = getattr(error, "strerror", None) or str(error) or "too large for memory"
        return {**fact, "reason": "unreadable", "detail": detail}
    digest = hashlib.blake2b(content, digest_size=16).digest()
    fact |= {"bytes": len(content), "digest": np.frombuffer(digest, np.uint8)}
    try:
        picture = decode.decode_image(content, channels, max_pixels)
    except decode.ImageError as error:
        height, width = error.size
        size = {"height": height, "width": width}
        return {**fact, **size, "reason": error.reason, "detail": error.detail}
    counts = _histograms(picture.pixels)
    occurring = np.flatnonzero(counts.sum(axis=0))
    shares = counts / picture.pixels[..., 0].size
    values = np.arange(256) / 255
    return {
        **fact,
        "kind": picture.kind,
        "height": picture.pixels.shape[0],
        "width": picture.pixels.shape[1],
        "plain_jpeg": picture.plain_jpeg,
        "phash": perceptual_hash(picture.pixels),
        "low": occurring[0],
        "high": occurring[-1],
        "levels": np.count_nonzero(counts, axis=1).max(),
        "mean": shares @ values,
        "square": shares @ values**2,
    }


def _histograms(pixels: np.ndarray) -> np.ndarray:
    """Counts of the levels, int64 [channels, 256]; NumPy's would take 8 bytes a value."""
    channels = np.moveaxis(pixels, -1, 0)
    return np.array([PIL.Image.fromarray(channel).histogram() for channel in channels])


def perceptual_hash(pixels: np.ndarray) -> int:
    """64 bits that hardly change when a picture is resized or encoded again.

    Signs of the 8 x 8 lowest frequencies of the picture at 32 x 32 against their median (pHash:
    Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2).

    Args:
        pixels: uint8 [h, w, C].

    Returns:
        The bits as an integer; 0 for a picture without structure, which resembles all its like.
    """
    grey = pixels[..., : min(3, pixels.shape[-1])].mean(axis=-1, dtype=np.float32)
    small = PIL.Image.fromarray(grey).resize((32, 32), PIL.Image.Resampling.BOX)
    waves = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))
    low = waves @ np.asarray(small, np.float64) @ waves.T
    details = np.delete(low.ravel(), 0)
    if np.abs(details).max() < 256:  # a quarter of a grey level a pixel
        return 0
    bits = np.append(details > np.median(details), True)
    return int(np.packbits(bits).view(">u8")[0])


def _judge(
    names: Sequence[str], facts: list, channels: int, min_side: int, max_pixels: int
) -> Index:
    """Applies the limits, then finds duplicates among what is left."""
    first: dict[bytes, int] = {}
    reasons, details = [], []
    for i, fact in enumerate(facts):
        reason, detail = fact["reason"], fact["detail"]
        height, width = int(fact["height"]), int(fact["width"])
        if not reason and height * width > max_pixels:
            reason, detail = "oversize", f"{width} x {height} px, at most {max_pixels:,} pixels"
        if not reason and min(height, width) < min_side:
            reason, detail = "too small", f"{width} x {height} px, at least {min_side} px a side"
        if not reason:
            earlier = first.setdefault(fact["digest"].tobytes(), i)
            if earlier != i:
                reason, detail = "duplicate", f"same bytes as {names[earlier]}"
        reasons.append(reason)
        details.append(detail)
    kinds = tuple(fact["kind"] for fact in facts)
    columns: dict[str, Any] = _columns(facts, channels)
    return Index(reason=tuple(reasons), detail=tuple(details), kind=kinds, **columns)


def _columns(facts: list, channels: int) -> dict[str, np.ndarray]:
    statistics = (np.float64, (channels,))
    rows = {**_ROWS, "mean": statistics, "square": statistics}
    return {
        name: np.array([fact[name] for fact in facts], dtype).reshape(len(facts), *shape)
        for name, (dtype, shape) in rows.items()
    }


# ------------------------------------------------------------------------------------------- cache


def _load(cache: pathlib.Path | None, channels: int) -> dict[tuple[str, str], dict[str, Any]]:
    if cache is None or not cache.is_file():
        return {}
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        words = json.loads(arrays.pop("words").tobytes())
        if words["format"] != FORMAT or words["channels"] != channels:
            return {}
        columns = {**arrays, **{name: words[name] for name in ("reason", "detail", "kind")}}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        keys = zip(words["names"], words["stamps"], strict=True)
        return dict(zip(keys, rows, strict=True))
    except Exception:  # damaged, or of another program: it is made again
        return {}


def _save(cache: pathlib.Path | None, records: Records, facts: list, channels: int) -> None:
    if cache is None:
        return
    seen = [i for i, fact in enumerate(facts) if fact is not None]
    facts = [facts[i] for i in seen]
    words: dict[str, Any] = {
        name: [fact[name] for fact in facts] for name in ("reason", "detail", "kind")
    }
    words |= {"format": FORMAT, "channels": channels}
    words |= {name: [getattr(records, name)[i] for i in seen] for name in ("names", "stamps")}
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(words).encode(), np.uint8)
    np.savez(file, words=text, **_columns(facts, channels))  # type: ignore[arg-type]
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(cache, file.getvalue())
    except OSError:
        return  # a cache is a convenience; a read-only home is no reason to stop


# ---------------------------------------------------------------------------------------- rejected


def rejected(names: Sequence[str], index: Index) -> tuple[Rejected, ...]:
    """(name, reason, detail) of every record that is left out, by name."""
    rows = zip(names, index.reason, index.detail, strict=True)
    return tuple(sorted(row for row in rows if row[1]))


def write_rejected(path: pathlib.Path, rows: Iterable[Rejected]) -> None:
    """Writes rejected.csv; see ``rejected_csv``."""
    write_text(path, rejected_csv(rows))


def rejected_csv(rows: Iterable[Rejected]) -> str:
    """The text of rejected.csv, sorted: path, reason, detail."""
    return csv_text([("path", "reason", "detail"), *sorted(rows)])


def check_share(index: Index, name: str, max_rejected: float) -> None:
    """Refuses a set of which too much is left out.

    Raises:
        UserError: More than ``max_rejected`` of the records are, or all.
    """
    counts = collections.Counter(reason for reason in index.reason if reason)
    total, out = len(index.reason), counts.total()
    if total > out and out <= max_rejected * total:
        return
    kinds = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    if total == out:
        raise UserError(
            f"{name}: none of {total} pictures can be used ({kinds}); "
            "`cssl-jax data check` says why"
        )
    raise UserError(
        f"{name}: {out} of {total} pictures would be left out ({kinds}), more than "
        f"data.max_rejected {max_rejected:g} allows; `cssl-jax data check` says which; mend them, "
        "or raise --data.max-rejected"
    )
