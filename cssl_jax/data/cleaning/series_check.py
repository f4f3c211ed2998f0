"""Report of `cssl-jax data check` on a set of series."""

import collections
from typing import Any

import numpy as np

from cssl_jax.data.sources.base import ArraySource

SHOWN = 5  # maximum number of names per line of the report
CLASSES_SHOWN = 12  # maximum number of classes in the report


def summarize(source: ArraySource) -> dict[str, Any]:
    """Collects all values that ``report`` shows, as JSON-serialisable types.

    Args:
        source: Series, {"values": float32 [N, T, C], "length": int32 [N]}; NaN is a missing value.
    """
    values, length = source.examples["values"], source.examples["length"]
    steps = np.arange(values.shape[1]) < length[:, None]
    missing = np.isnan(values) & steps[..., None]
    total = int(length.sum())
    per_series = missing.sum(axis=1)  # [N, C]
    # A channel without any value counts as missing, not as constant.
    low = np.where(missing | ~steps[..., None], np.inf, values).min(axis=1)
    high = np.where(missing | ~steps[..., None], -np.inf, values).max(axis=1)
    names = _names(source)
    repeated = duplicates(source)
    content: dict[str, Any] = {
        "source": source.name,
        "series": len(source),
        "channels": int(values.shape[2]),
        "lengths": [int(length.min()), int(np.median(length)), int(length.max())],
        "different_lengths": len(np.unique(length)),
        "steps": total,
        "bytes": int(source.nbytes),
        "missing": float(missing.sum() / max(total * values.shape[2], 1)),
        "missing_by_channel": (missing.sum(axis=(0, 1)) / max(total, 1)).tolist(),
        "series_with_missing": int((per_series > 0).any(axis=1).sum()),
        "series_without_values": [
            names[i] for i in np.flatnonzero((per_series == length[:, None]).all(axis=1))
        ],
        "constant_channels": np.flatnonzero(low.min(axis=0) == high.max(axis=0)).tolist(),
        "series_with_constant_channel": int((low == high).any(axis=1).sum()),
        "duplicates": [[names[i] for i in group] for group in repeated],
        "duplicates_with_other_labels": sum(
            source.labels is not None and len(set(source.labels[group])) > 1 for group in repeated
        ),
        "notes": list(source.notes),
    }
    if source.labels is not None:
        counts = collections.Counter(source.labels.tolist())
        content["unlabelled"] = counts.pop(-1, 0)
        content["classes"] = {
            source.classes[i] if source.classes else str(i): counts[i]
            for i in range(source.num_classes)
        }
    if source.groups is not None:
        found, sizes = np.unique(source.groups, return_counts=True)
        content["groups"] = {str(name): int(size) for name, size in zip(found, sizes, strict=True)}
        content["duplicates_across_groups"] = sum(
            len(set(source.groups[group].tolist())) > 1 for group in repeated
        )
    return content


def report(content: dict[str, Any]) -> str:
    """Formats the result of ``summarize`` for a terminal."""
    low, middle, high = content["lengths"]
    lines = [
        content["source"],
        f"  {content['series']:,} series of {content['channels']} channel(s)",
        "",
        f"lengths   {low:,} to {high:,} steps, median {middle:,}, "
        f"{content['different_lengths']:,} different",
        f"missing   {100 * content['missing']:.2f} % of the values, in "
        f"{content['series_with_missing']:,} series",
        f"memory    {content['bytes'] / 2**20:,.1f} MiB",
    ]
    if any(content["missing_by_channel"]) and content["channels"] > 1:
        rates = [f"{i}: {100 * rate:.2f} %" for i, rate in enumerate(content["missing_by_channel"])]
        lines.insert(5, f"          by channel {first_names(rates)}")
    if empty := content["series_without_values"]:
        lines.append(f"empty     {len(empty):,} series without any value: {first_names(empty)}")
    if constant := content["constant_channels"]:
        shown = first_names([str(i) for i in constant])
        lines.append(f"constant  channel {shown} has one value in the whole set")
    if count := content["series_with_constant_channel"]:
        lines.append(f"constant  {count:,} series have a channel of one value")
    lines += label_lines(content, "series")
    if groups := content.get("groups"):
        sizes = sorted(groups.values())
        lines += [
            "",
            f"groups    {len(groups):,}, of {sizes[0]:,} to {sizes[-1]:,} series; a split keeps "
            "each on one side",
        ]
    if repeated := content["duplicates"]:
        of_labels = content["duplicates_with_other_labels"]
        across = content.get("duplicates_across_groups", 0)
        lines += [
            "",
            f"identical series: {len(repeated):,} sets, {of_labels:,} of them with different "
            f"labels, {across:,} across groups",
        ]
        lines += [f"  {first_names(names)}" for names in repeated[:SHOWN]]
    return "\n".join([*lines, *(f"\n{note}" for note in content["notes"])])


def label_lines(content: dict[str, Any], noun: str) -> list[str]:
    """Lines of a report with the number of examples per class; ``noun`` is a plural noun."""
    if "classes" not in content:
        return ["", "labels    none"]
    counts = sorted(content["classes"].items(), key=lambda item: (-item[1], item[0]))
    title = f"labels    {len(counts):,} classes, {content['unlabelled']:,} {noun} without label"
    half = CLASSES_SHOWN // 2  # shows the most and the least frequent classes
    shown = counts if len(counts) <= CLASSES_SHOWN else [*counts[:half], *counts[-half:]]
    width = max(len(name) for name, _ in shown)
    rows = [f"  {name:<{width}} {count:>9,}" for name, count in shown]
    if len(shown) < len(counts):
        rows.insert(half, f"  ... {len(counts) - len(shown):,} more")
    return ["", title, *rows]


def _names(source: ArraySource) -> list[str]:
    """Name of every series: its id, or its number in the file from 0."""
    return [str(i) for i in range(len(source))] if source.names is None else source.names.tolist()


def duplicates(source: ArraySource) -> list[list[int]]:
    """Sets of series with the same steps, as lists of their numbers."""
    found: dict[bytes, list[int]] = {}
    pairs = zip(source.examples["values"], source.examples["length"], strict=True)
    for number, (values, length) in enumerate(pairs):
        found.setdefault(values[:length].tobytes(), []).append(number)
    return [numbers for numbers in found.values() if len(numbers) > 1]


def first_names(names: list[str]) -> str:
    """Up to ``SHOWN`` names, and the number of the others."""
    more = f", ... {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
