"""Report of `cssl-jax data check` on a set of recordings."""

import collections
from typing import Any

import numpy as np

from cssl_jax.data.cleaning.series_check import first_names, label_lines
from cssl_jax.data.sources.audio import Decoded

SHOWN = 5  # maximum number of sets of identical files in the report
SILENT = 10 ** (-60 / 20)  # root mean square below which a recording is silent, of full scale
CLIPPED = 0.001  # fraction of samples at full scale above which a recording is clipped
OFFSET = 0.02  # mean of the samples above which a recording has an offset, of full scale


def summarize(decoded: Decoded) -> dict[str, Any]:
    """Collects all values that ``report`` shows, as JSON-serialisable types.

    Args:
        decoded: Files of the source, at their own rates.
    """
    records = decoded.records
    kept = [
        (name, one)
        for name, one in zip(records.names, decoded.recordings, strict=True)
        if one is not None
    ]
    seconds = np.array([len(one.samples) / one.rate for _, one in kept])
    levels = [one.samples.astype(np.float64) / 2**15 for _, one in kept]
    names = [name for name, _ in kept]
    content: dict[str, Any] = {
        "source": records.name,
        "files": len(records.names),
        "recordings": len(kept),
        "hours": float(seconds.sum() / 3600),
        "seconds": [float(f(seconds)) for f in (np.min, np.median, np.max)] if kept else [],
        "rates": _counts(one.rate for _, one in kept),
        "channels": _counts(one.channels for _, one in kept),
        "silent": _where(names, [np.sqrt(np.mean(x**2)) < SILENT for x in levels]),
        "clipped": _where(names, [one.clipped > CLIPPED for _, one in kept]),
        "offset": _where(names, [abs(x.mean()) > OFFSET for x in levels]),
        "duplicates": decoded.repeated,
        "rejected": [list(row) for row in decoded.rejected],
        "notes": list(records.notes),
    }
    if records.labels is not None:
        counts = collections.Counter(records.labels.tolist())
        content["unlabelled"] = counts.pop(-1, 0)
        classes = records.classes or tuple(map(str, range(int(records.labels.max()) + 1)))
        content["classes"] = {name: counts[number] for number, name in enumerate(classes)}
    if records.groups is not None:
        content["groups"] = dict(collections.Counter(records.groups))
        group = dict(zip(records.names, records.groups, strict=True))
        content["duplicates_across_groups"] = sum(
            len({group[name] for name in same}) > 1 for same in decoded.repeated
        )
    return content


def report(content: dict[str, Any]) -> str:
    """Formats the result of ``summarize`` for a terminal."""
    lines = [
        content["source"],
        f"  {content['files']:,} files, {content['recordings']:,} of them usable, "
        f"{content['hours']:,.2f} hours",
        "",
    ]
    if content["seconds"]:
        low, middle, high = content["seconds"]
        lines.append(f"lengths   {low:,.2f} to {high:,.2f} s, median {middle:,.2f} s")
    lines += [
        f"rates     {_listed(content['rates'], 'Hz')}",
        f"channels  {_listed(content['channels'], 'channel(s)')}",
    ]
    for key, text in (
        ("silent", "below -60 dB of full scale"),
        ("clipped", f"more than {100 * CLIPPED:g} % of the samples at full scale"),
        ("offset", f"a mean of more than {100 * OFFSET:g} % of full scale"),
    ):
        if names := content[key]:
            lines.append(f"{key:<9} {len(names):,} recordings, {text}: {first_names(names)}")
    lines += label_lines(content, "recordings")
    if groups := content.get("groups"):
        sizes = sorted(groups.values())
        lines += [
            "",
            f"groups    {len(groups):,}, of {sizes[0]:,} to {sizes[-1]:,} recordings; a split "
            "keeps each on one side",
        ]
    if repeated := content["duplicates"]:
        across = content.get("duplicates_across_groups", 0)
        lines += ["", f"identical files: {len(repeated):,} sets, {across:,} across groups"]
        lines += [f"  {first_names(names)}" for names in repeated[:SHOWN]]
    if rejected := content["rejected"]:
        reasons = collections.Counter(reason for _, reason, _ in rejected)
        kinds = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        lines += ["", f"excluded  {len(rejected):,} files: {kinds}"]
        lines += [
            f"  {name}: {reason}{detail and f', {detail}'}"
            for name, reason, detail in rejected[:SHOWN]
        ]
    return "\n".join([*lines, *(f"\n{note}" for note in content["notes"])])


def _counts(values: Any) -> dict[str, int]:
    """Number of recordings per value, as text, most frequent first."""
    return {str(value): count for value, count in collections.Counter(values).most_common()}


def _where(names: list[str], found: list[Any]) -> list[str]:
    return [name for name, is_so in zip(names, found, strict=True) if is_so]


def _listed(counts: dict[str, int], unit: str) -> str:
    return ", ".join(f"{value} {unit} ({count:,})" for value, count in counts.items()) or "none"
