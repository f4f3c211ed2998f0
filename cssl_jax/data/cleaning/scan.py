"""Scan of all images before a run: finds broken files and duplicates, and caches the result."""

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
from cssl_jax.data.pipeline.thread_map import map_ahead
from cssl_jax.data.sources import decode
from cssl_jax.errors import UserError
from cssl_jax.files import csv_text, write_bytes, write_text
from cssl_jax.progress import bar

FORMAT = 4  # version of the cache file; a new number invalidates old files
_COLUMNS = {  # dtype and trailing shape per record, except for the channel statistics
    "height": (np.int64, ()),  # a header may claim any size below 2^32
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
class ScanIndex:
    """Result of a scan; arrays and tuples have one entry per record.

    Attributes:
        reason: "" for a record that is kept, else the reason for excluding it: "empty",
            "unreadable", "truncated", "oversize", "too small" or "duplicate" (same bytes as an
            earlier record).
        detail: Details of the reason, such as the size; "" for a record that is kept.
        kind: Format and mode of the file, such as "JPEG RGB"; "" if unknown.
        height: int64 [n], height in pixels after applying the EXIF orientation; 0 if unknown.
        width: int64 [n], width in pixels after applying the EXIF orientation; 0 if unknown.
        bytes: int64 [n], size of the file in bytes.
        plain_jpeg: bool [n], True if TensorFlow's decoder gives the same pixels as this library's.
        digest: uint8 [n, 16], BLAKE2b digest of the file.
        phash: uint64 [n], perceptual hash; 0 if the image has no structure to hash.
        low: uint8 [n], lowest value of any channel.
        high: uint8 [n], highest value of any channel.
        levels: int64 [n], maximum over the channels of the number of distinct values; 1 means a
            blank image.
        mean: float64 [n, channels], mean per channel, on the scale [0, 1].
        square: float64 [n, channels], mean of the squared values per channel.
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
        """Numbers of the records that are kept, int64 [k]."""
        return np.flatnonzero([not reason for reason in self.reason])


def scan(
    records: Records,
    *,
    channels: int,
    min_side: int,
    max_pixels: int,
    cache: pathlib.Path | None = None,
) -> ScanIndex:
    """Reads and decodes every record once, in threads; memory holds a few images per core.

    Args:
        records: Records to scan.
        channels: Number of channels to which images are converted.
        min_side: Minimum side in pixels; an image with a shorter side is "too small".
        max_pixels: Maximum number of pixels; a larger image is "oversize" and is not decoded.
        cache: Cache file, or None for no cache. A record with the same name and stamp as in the
            file is not read again. Changed limits need no new scan. An interrupted scan resumes
            where it stopped.

    Returns:
        The index of all records.
    """
    cached = _load(cache, channels)
    facts: list[Any] = [cached.get(key) for key in zip(records.names, records.stamps, strict=True)]
    missing = [i for i, fact in enumerate(facts) if not (fact and _is_final(fact, max_pixels))]
    if missing:
        try:
            _scan_missing(records, facts, missing, channels, max_pixels)
        finally:  # an interrupted scan keeps the records that it has read
            _save(cache, records, facts, channels)
    return _apply_limits(records.names, facts, channels, min_side, max_pixels)


def _is_final(fact: dict[str, Any], max_pixels: int) -> bool:
    """True if rescanning cannot change the record."""
    if fact["reason"] == "oversize":  # under the limit of that scan; the image was not decoded
        return int(fact["height"]) * int(fact["width"]) > max_pixels
    # Missing permissions or mounts prevent reading, and fixing them does not change the stamp.
    return fact["reason"] != "unreadable" or int(fact["bytes"]) > 0


def _scan_missing(
    records: Records, facts: list[Any], missing: list[int], channels: int, max_pixels: int
) -> None:
    """Scans the records with the numbers ``missing`` and stores their facts in ``facts``."""
    progress = bar(iterable=missing, desc=f"checking {records.name}", unit="image", delay=2.0)
    with warnings.catch_warnings():
        # Pillow warns about single files; the index holds what matters.
        warnings.simplefilter("ignore")
        new_facts = map_ahead(lambda i: scan_record(records, i, channels, max_pixels), missing)
        for i, fact in zip(progress, new_facts, strict=True):
            facts[i] = fact


def scan_record(records: Records, index: int, channels: int, max_pixels: int) -> dict[str, Any]:
    """Reads and decodes one record and returns the facts that are cached.

    Args:
        records: Records to scan.
        index: Number of the record.
        channels: Number of channels to which images are converted.
        max_pixels: Maximum number of pixels of an image that is decoded.

    Returns:
        The fields of ``ScanIndex`` for this record, before limits and duplicates are considered.
    """
    fact: dict[str, Any] = dict.fromkeys(("reason", "detail", "kind"), "")
    fact |= {name: np.zeros(shape, dtype) for name, (dtype, shape) in _COLUMNS.items()}
    fact |= {"mean": np.zeros(channels), "square": np.zeros(channels)}
    try:
        content = records.read(index)
    except (OSError, MemoryError) as error:
        detail = getattr(error, "strerror", None) or str(error) or "too large for memory"
        return {**fact, "reason": "unreadable", "detail": detail}
    digest = hashlib.blake2b(content, digest_size=16).digest()
    fact |= {"bytes": len(content), "digest": np.frombuffer(digest, np.uint8)}
    try:
        image = decode.decode_image(content, channels, max_pixels)
    except decode.ImageError as error:
        height, width = error.size
        size = {"height": height, "width": width}
        return {**fact, **size, "reason": error.reason, "detail": error.detail}
    counts = _histograms(image.pixels)
    occurring = np.flatnonzero(counts.sum(axis=0))
    fractions = counts / image.pixels[..., 0].size
    values = np.arange(256) / 255
    return {
        **fact,
        "kind": image.kind,
        "height": image.pixels.shape[0],
        "width": image.pixels.shape[1],
        "plain_jpeg": image.plain_jpeg,
        "phash": perceptual_hash(image.pixels),
        "low": occurring[0],
        "high": occurring[-1],
        "levels": np.count_nonzero(counts, axis=1).max(),
        "mean": fractions @ values,
        "square": fractions @ values**2,
    }


def _histograms(pixels: np.ndarray) -> np.ndarray:
    """Counts of each level per channel, int64 [channels, 256].

    Pillow counts the values: ``numpy.bincount`` would need 8 bytes of memory per value.
    """
    channels = np.moveaxis(pixels, -1, 0)
    return np.array([PIL.Image.fromarray(channel).histogram() for channel in channels])


def perceptual_hash(pixels: np.ndarray) -> int:
    """Hash of 64 bits that change little when an image is resized or re-encoded.

    The bits show which of the 8 x 8 lowest frequencies of the image at 32 x 32 exceed their median
    (pHash: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010,
    section 3.2).

    Args:
        pixels: uint8 [h, w, C].

    Returns:
        The bits as an integer; 0 for an image without structure, since the hashes of all such
        images would match each other.
    """
    grey = pixels[..., : min(3, pixels.shape[-1])].mean(axis=-1, dtype=np.float32)
    small = PIL.Image.fromarray(grey).resize((32, 32), PIL.Image.Resampling.BOX)
    waves = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))
    low = waves @ np.asarray(small, np.float64) @ waves.T
    details = np.delete(low.ravel(), 0)
    if np.abs(details).max() < 256:  # a quarter of a grey level per pixel
        return 0
    bits = np.append(details > np.median(details), True)
    return int(np.packbits(bits).view(">u8")[0])


def _apply_limits(
    names: Sequence[str], facts: list[Any], channels: int, min_side: int, max_pixels: int
) -> ScanIndex:
    """Applies the limits, then finds duplicates among the remaining records."""
    first: dict[bytes, int] = {}
    reasons, details = [], []
    for i, fact in enumerate(facts):
        reason, detail = fact["reason"], fact["detail"]
        height, width = int(fact["height"]), int(fact["width"])
        if not reason and height * width > max_pixels:
            reason, detail = "oversize", f"{width} x {height} px, at most {max_pixels:,} pixels"
        if not reason and min(height, width) < min_side:
            reason, detail = "too small", f"{width} x {height} px, at least {min_side} px per side"
        if not reason:
            earlier = first.setdefault(fact["digest"].tobytes(), i)
            if earlier != i:
                reason, detail = "duplicate", f"same bytes as {names[earlier]}"
        reasons.append(reason)
        details.append(detail)
    kinds = tuple(fact["kind"] for fact in facts)
    columns: dict[str, Any] = _columns(facts, channels)
    return ScanIndex(reason=tuple(reasons), detail=tuple(details), kind=kinds, **columns)


def _columns(facts: list[Any], channels: int) -> dict[str, np.ndarray]:
    statistics = (np.float64, (channels,))
    columns = {**_COLUMNS, "mean": statistics, "square": statistics}
    return {
        name: np.array([fact[name] for fact in facts], dtype).reshape(len(facts), *shape)
        for name, (dtype, shape) in columns.items()
    }


# ------------------------------------------------------------------------------------------- cache


def _load(cache: pathlib.Path | None, channels: int) -> dict[tuple[str, str], dict[str, Any]]:
    if cache is None or not cache.is_file():
        return {}
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        metadata = json.loads(arrays.pop("words").tobytes())
        if metadata["format"] != FORMAT or metadata["channels"] != channels:
            return {}
        columns = {**arrays, **{name: metadata[name] for name in ("reason", "detail", "kind")}}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        keys = zip(metadata["names"], metadata["stamps"], strict=True)
        return dict(zip(keys, rows, strict=True))
    except Exception:  # a damaged file, or one of another program: the scan starts from scratch
        return {}


def _save(cache: pathlib.Path | None, records: Records, facts: list[Any], channels: int) -> None:
    if cache is None:
        return
    scanned = [i for i, fact in enumerate(facts) if fact is not None]
    facts = [facts[i] for i in scanned]
    metadata: dict[str, Any] = {
        name: [fact[name] for fact in facts] for name in ("reason", "detail", "kind")
    }
    metadata |= {"format": FORMAT, "channels": channels}
    metadata |= {name: [getattr(records, name)[i] for i in scanned] for name in ("names", "stamps")}
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    np.savez(file, words=text, **_columns(facts, channels))  # type: ignore[arg-type]
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(cache, file.getvalue())
    except OSError:
        return  # the cache is optional: a read-only home directory must not stop a run


# ---------------------------------------------------------------------------------------- rejected


def rejected(names: Sequence[str], index: ScanIndex) -> tuple[Rejected, ...]:
    """Rows (name, reason, detail) of all excluded records, sorted by name.

    Args:
        names: Names of all records.
        index: Result of the scan.
    """
    rows = zip(names, index.reason, index.detail, strict=True)
    return tuple(sorted(row for row in rows if row[1]))


def write_rejected(path: pathlib.Path, rows: Iterable[Rejected]) -> None:
    """Writes rejected.csv; see ``rejected_csv``."""
    write_text(path, rejected_csv(rows))


def rejected_csv(rows: Iterable[Rejected]) -> str:
    """Content of rejected.csv: columns path, reason and detail, sorted by path."""
    return csv_text([("path", "reason", "detail"), *sorted(rows)])


def check_rejected_fraction(index: ScanIndex, name: str, max_rejected: float) -> None:
    """Checks that the fraction of excluded records is at most ``max_rejected``.

    Args:
        index: Result of the scan.
        name: Name of the source, for the message.
        max_rejected: Maximum fraction of excluded records, in [0, 1].

    Raises:
        UserError: More than this fraction is excluded, or all records are.
    """
    counts = collections.Counter(reason for reason in index.reason if reason)
    total, excluded = len(index.reason), counts.total()
    if total > excluded and excluded <= max_rejected * total:
        return
    kinds = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    if total == excluded:
        raise UserError(
            f"{name}: none of {total} images can be used ({kinds}); "
            "`cssl-jax data check` reports why"
        )
    raise UserError(
        f"{name}: {excluded} of {total} images would be excluded ({kinds}), more than "
        f"data.max_rejected {max_rejected:g} allows; `cssl-jax data check` lists them. Fix them, "
        "or raise --data.max-rejected"
    )
