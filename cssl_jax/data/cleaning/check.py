"""What `cssl-jax data check` says of a set of pictures."""

import collections
from typing import Any

import numpy as np

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.cleaning.near_duplicates import near_duplicates
from cssl_jax.data.cleaning.quality import blank, quality_notes
from cssl_jax.data.cleaning.scan import Index, scan
from cssl_jax.data.formats.base import Records
from cssl_jax.data.formats.walk import describe_others
from cssl_jax.data.sources.images import cache_path
from cssl_jax.data.sources.open import open_records

Groups = list[tuple[int, ...]]
SHOWN = 5  # names of a kind
CLASSES_SHOWN = 12


def examine(source: str, options: ImageOptions) -> tuple[Records, Index, Groups]:
    """(records, what the scan found, near-duplicates among the kept), as a run would see them.

    Raises:
        UserError: There is nothing to look at.
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


def figures(records: Records, index: Index, groups: Groups) -> dict[str, Any]:
    """Everything that ``report`` shows, ready for JSON."""
    kept = index.kept
    left_out: dict[str, list[str]] = {}
    for name, reason in zip(records.names, index.reason, strict=True):
        if reason:
            left_out.setdefault(reason, []).append(name)
    short, long = _sides(index, kept)
    content: dict[str, Any] = {
        "source": records.name,
        "pictures": len(records.names),
        "kept": len(kept),
        "left_out": left_out,
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


def report(records: Records, index: Index, groups: Groups) -> str:
    """The figures as a person reads them in a terminal."""
    content = figures(records, index, groups)
    lines = [
        f"{records.name}",
        f"  {content['pictures']:,} pictures, {content['kept']:,} kept, "
        f"{content['pictures'] - content['kept']:,} left out",
    ]
    for reason, names in sorted(content["left_out"].items(), key=lambda item: -len(item[1])):
        lines.append(f"  {reason:<12}{len(names):>8,}  {_some(names)}")
    if not_read := content["not_read"]:
        held = describe_others(not_read, texts=True)
        lines.append(f"  {'not read':<12}{sum(not_read.values()):>8,}  {held}")
    if content["kept"]:
        lines += ["", *_contents(content)]
    lines += _classes(content)
    if conflicts := content["duplicates_with_other_labels"]:
        lines += ["", f"same bytes, other labels: {len(conflicts):,}  {_some(conflicts)}"]
    if groups:
        crossing = content["near_duplicates_across_classes"]
        across = f", {crossing:,} of them across classes" if crossing else ""
        lines += ["", f"near-duplicates, kept: {len(groups):,} groups{across}"]
        lines += [f"  {_some(names)}" for names in content["near_duplicates"][:SHOWN]]
    lines += [f"\n{note}" for note in content["notes"]]
    return "\n".join(lines)


def _contents(content: dict[str, Any]) -> list[str]:
    kinds = _some([f"{kind} {count:,}" for kind, count in content["kinds"].items()])
    sides = [
        f"{side} side {low} to {high} px, median {middle}"
        for side, (low, middle, high) in content["sides"].items()
    ]
    levels = content["levels"]
    size, decoded = (content[name] / 2**20 for name in ("bytes", "decoded_bytes"))
    return [
        f"formats   {kinds}",
        f"sizes     {'; '.join(sides)}",
        f"levels    {levels['low']} to {levels['high']} of 255, {levels['median']} per image "
        "(median)",
        f"memory    {size:,.1f} MiB on disk, {decoded:,.1f} MiB decoded",
    ]


def _classes(content: dict[str, Any]) -> list[str]:
    if "classes" not in content:
        return ["", "labels    none"]
    counts = sorted(content["classes"].items(), key=lambda item: (-item[1], item[0]))
    lines = ["", f"labels    {len(counts):,} classes, {content['unlabelled']:,} pictures without"]
    half = CLASSES_SHOWN // 2
    shown = counts if len(counts) <= CLASSES_SHOWN else [*counts[:half], *counts[-half:]]
    width = max(len(name) for name, _ in shown)
    rows = [f"  {name:<{width}} {count:>9,}" for name, count in shown]
    if len(shown) < len(counts):
        rows.insert(half, f"  ... {len(counts) - len(shown):,} more")
    return lines + rows


def _sides(index: Index, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.stack([index.height[kept], index.width[kept]]).astype(np.int64)
    return sizes.min(axis=0), sizes.max(axis=0)


def _crosses(records: Records, group: tuple[int, ...]) -> bool:
    return records.labels is not None and len(set(records.labels[list(group)])) > 1


def _conflicts(records: Records, index: Index) -> list[str]:
    """Duplicates that carry another label than the picture they equal: labelling errors."""
    if records.labels is None:
        return []
    first = {index.digest[i].tobytes(): i for i in index.kept[::-1]}
    duplicates = [i for i, reason in enumerate(index.reason) if reason == "duplicate"]
    return [
        records.names[i]
        for i in duplicates
        if records.labels[i] != records.labels[first[index.digest[i].tobytes()]]
    ]


def _some(names: list[str]) -> str:
    more = f", ... {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
