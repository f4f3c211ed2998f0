"""Report of `cssl-jax data check` on a set of images."""

import collections
from typing import Any

import numpy as np

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.cleaning.near_duplicates import near_duplicates
from cssl_jax.data.cleaning.quality import blank, quality_notes
from cssl_jax.data.cleaning.scan import ScanIndex, scan
from cssl_jax.data.formats.base import Records
from cssl_jax.data.formats.walk import describe_others
from cssl_jax.data.sources.images import cache_path
from cssl_jax.data.sources.open import open_records

Groups = list[tuple[int, ...]]
SHOWN = 5  # maximum number of names per line of the report
CLASSES_SHOWN = 12  # maximum number of classes in the report


def scan_source(source: str, options: ImageOptions) -> tuple[Records, ScanIndex, Groups]:
    """Scans a set of images exactly as a run would.

    Args:
        source: Path or specification of the images.
        options: Image options of the run.

    Returns:
        The records, the index of the scan, and the groups of near-duplicates among the records that
        are kept, as record numbers.

    Raises:
        UserError: The source does not exist or holds no images.
    """
    records = open_records(source, options)
    index = scan(
        records,
        channels=options.channels,
        min_side=options.min_side,
        max_pixels=options.max_pixels,
        cache=cache_path(records, options.channels),
    )
    kept = index.kept
    groups = [tuple(int(kept[i]) for i in group) for group in near_duplicates(index.phash[kept])]
    return records, index, groups


def summarize(records: Records, index: ScanIndex, groups: Groups) -> dict[str, Any]:
    """Collects all values that ``report`` shows, as JSON-serialisable types.

    Args:
        records: Records that were scanned.
        index: Result of the scan.
        groups: Groups of near-duplicates, as record numbers.
    """
    kept = index.kept
    excluded: dict[str, list[str]] = {}
    for name, reason in zip(records.names, index.reason, strict=True):
        if reason:
            excluded.setdefault(reason, []).append(name)
    short, long = _sides(index, kept)
    content: dict[str, Any] = {
        "source": records.name,
        "pictures": len(records.names),
        "kept": len(kept),
        "left_out": excluded,
        "not_read": getattr(records, "not_read", {}),
        "notes": [*getattr(records, "notes", ()), *quality_notes(records.names, index)],
        "blank": [records.names[i] for i in blank(index)],
        "kinds": dict(collections.Counter(index.kind[i] for i in kept).most_common()),
        "bytes": int(index.bytes[kept].sum()),
        "decoded_bytes": int((short * long).sum() * index.mean.shape[1]),
        "near_duplicates": [[records.names[i] for i in group] for group in groups],
        "near_duplicates_across_classes": sum(_crosses(records, group) for group in groups),
        "duplicates_with_other_labels": _conflicts(records, index),
    }
    if len(kept):
        content["sides"] = {
            side: [int(x) for x in (values.min(), np.median(values), values.max())]
            for side, values in (("short", short), ("long", long))
        }
        content["levels"] = {
            "low": int(index.low[kept].min()),
            "high": int(index.high[kept].max()),
            "most_in_an_image": int(index.levels[kept].max()),
            "median": int(np.median(index.levels[kept])),
        }
    if records.labels is not None:
        counts = collections.Counter(records.labels[kept].tolist())
        content["unlabelled"] = counts.pop(-1, 0)
        content["classes"] = {name: counts[i] for i, name in enumerate(records.classes)}
    return content


def report(records: Records, index: ScanIndex, groups: Groups) -> str:
    """Formats the result of a scan for a terminal.

    Args:
        records: Records that were scanned.
        index: Result of the scan.
        groups: Groups of near-duplicates, as record numbers.
    """
    content = summarize(records, index, groups)
    lines = [
        f"{records.name}",
        f"  {content['pictures']:,} images, {content['kept']:,} kept, "
        f"{content['pictures'] - content['kept']:,} excluded",
    ]
    for reason, names in sorted(content["left_out"].items(), key=lambda item: -len(item[1])):
        lines.append(f"  {reason:<12}{len(names):>8,}  {_first_names(names)}")
    if not_read := content["not_read"]:
        suffixes = describe_others(not_read, texts=True)
        lines.append(f"  {'not read':<12}{sum(not_read.values()):>8,}  {suffixes}")
    if content["kept"]:
        lines += ["", *_image_lines(content)]
    lines += _class_lines(content)
    if conflicts := content["duplicates_with_other_labels"]:
        shown = _first_names(conflicts)
        lines += ["", f"identical files with different labels: {len(conflicts):,}  {shown}"]
    if groups:
        crossing = content["near_duplicates_across_classes"]
        across = f", {crossing:,} of them across classes" if crossing else ""
        lines += ["", f"near-duplicates among kept images: {len(groups):,} groups{across}"]
        lines += [f"  {_first_names(names)}" for names in content["near_duplicates"][:SHOWN]]
    lines += [f"\n{note}" for note in content["notes"]]
    return "\n".join(lines)


def _image_lines(content: dict[str, Any]) -> list[str]:
    kinds = _first_names([f"{kind} {count:,}" for kind, count in content["kinds"].items()])
    sides = [
        f"{side} side {low} to {high} px, median {middle}"
        for side, (low, middle, high) in content["sides"].items()
    ]
    levels = content["levels"]
    size, decoded = (content[name] / 2**20 for name in ("bytes", "decoded_bytes"))
    return [
        f"formats   {kinds}",
        f"sizes     {'; '.join(sides)}",
        f"levels    {levels['low']} to {levels['high']} of 255, {levels['median']} distinct per "
        "image (median)",
        f"memory    {size:,.1f} MiB on disk, {decoded:,.1f} MiB decoded",
    ]


def _class_lines(content: dict[str, Any]) -> list[str]:
    if "classes" not in content:
        return ["", "labels    none"]
    counts = sorted(content["classes"].items(), key=lambda item: (-item[1], item[0]))
    lines = [
        "",
        f"labels    {len(counts):,} classes, {content['unlabelled']:,} images without label",
    ]
    half = CLASSES_SHOWN // 2  # shows the most and the least frequent classes
    shown = counts if len(counts) <= CLASSES_SHOWN else [*counts[:half], *counts[-half:]]
    width = max(len(name) for name, _ in shown)
    rows = [f"  {name:<{width}} {count:>9,}" for name, count in shown]
    if len(shown) < len(counts):
        rows.insert(half, f"  ... {len(counts) - len(shown):,} more")
    return lines + rows


def _sides(index: ScanIndex, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Short and long side of each kept image in pixels, int64 [k] each."""
    sizes = np.stack([index.height[kept], index.width[kept]]).astype(np.int64)
    return sizes.min(axis=0), sizes.max(axis=0)


def _crosses(records: Records, group: tuple[int, ...]) -> bool:
    return records.labels is not None and len(set(records.labels[list(group)])) > 1


def _conflicts(records: Records, index: ScanIndex) -> list[str]:
    """Names of duplicates whose label differs from that of the identical image: label errors."""
    if records.labels is None:
        return []
    kept_by_digest = {index.digest[i].tobytes(): i for i in index.kept[::-1]}
    duplicates = [i for i, reason in enumerate(index.reason) if reason == "duplicate"]
    return [
        records.names[i]
        for i in duplicates
        if records.labels[i] != records.labels[kept_by_digest[index.digest[i].tobytes()]]
    ]


def _first_names(names: list[str]) -> str:
    more = f", ... {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
