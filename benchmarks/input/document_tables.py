"""Tables of ``benchmarks/results/input.json`` for docs/performance.md."""

from typing import Any

from measuring.report import megabytes, span
from measuring.tables import markdown, provenance

from input import decode, parts
from input.contenders import LABELS, WORKERS
from input.host import ratio_of


def host(section: dict[str, Any]) -> str:
    """Views/s, CPU time and memory of every contender."""
    rows, found = {}, {row["contender"]: row for row in section["rows"]}
    for name, row in found.items():
        if "failed" in row:
            rows[LABELS[name]] = [row["failed"], *[""] * 5]
            continue
        ratios = [ratio_of(found, name, peer) for peer in ("opencv", "albumentations")]
        rows[LABELS[name]] = [
            f"{row['views_s']:,.0f} {span(row['round_views_s'], ',.0f')}",
            f"{row['cpu_ms']:.2f}" if "cpu_ms" in row else "",
            *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            megabytes(row["memory_bytes"]) if "memory_bytes" in row else "",
            _growth(row),
        ]
    head = ["pipeline", "views/s (rounds)", "CPU ms per view", "/ OpenCV by hand, whole"]
    head += ["/ albumentations", "memory over libraries", "growth, batch 200 to 2,000"]
    load = f"{_rounds(section)} rounds, load average before {section['load_before']:.1f}"
    return markdown(head, rows) + provenance(
        section, f"{load}; {section['options']['examples']} photos per batch, {WORKERS} workers"
    )


def split(section: dict[str, Any]) -> str:
    """Ratios of the split pipelines, in one sentence."""
    found = {row["contender"]: row for row in section["rows"]}
    ratios = {name: ratio_of(found, name, "opencv-split") for name in ("tf-split", "threads-split")}
    tf, threads = (f"{ratio:.2f}" for ratio in ratios.values() if ratio is not None)
    return (
        f"\nSplit, in units of the same part by hand in OpenCV: tf.data {tf}, threads {threads} "
        "(medians of the rounds' ratios).\n"
    )


def by_part(section: dict[str, Any]) -> str:
    """Milliseconds of CPU time per view, by part."""
    found = section["rows"]
    rows = {
        label: [f"{row['parts'][name]:.3f}" for row in found]
        for name, label in parts.LABELS.items()
    }
    rows["sum of the parts"] = [f"{sum(row['parts'].values()):.3f}" for row in found]
    rows["measured as a whole"] = [f"{row['whole']:.3f}" for row in found]
    heads = ["antialiased" if row["antialias"] else "plain" for row in found]
    return markdown(["milliseconds of CPU time per view, one thread", *heads], rows) + provenance(
        section, f"medians of {5 * _rounds(section)} batches"
    )


def decoding(section: dict[str, Any]) -> str:
    """Milliseconds per view of decoding alone, by the size of the photos."""
    rows = {
        f"{label} ({section['rows'][-1]['halved_share']:.0%} of the larger photos)"
        if name == "scaled"
        else label: [f"{row['ms_a_view'][name]:.2f}" for row in section["rows"]]
        for name, label in decode.WAYS.items()
    }
    heads = ["{} x {}".format(*row["size"]) for row in section["rows"]]
    return markdown(["", *heads], rows) + provenance(section, f"{_rounds(section)} rounds")


def _rounds(section: dict[str, Any]) -> int:
    rounds: int = section["options"]["rounds"]
    return rounds


def _growth(row: dict[str, Any]) -> str:
    found = row.get("growth", {})
    if "late_bytes" not in found:
        return ""
    return megabytes(found["late_bytes"] - found["early_bytes"])
