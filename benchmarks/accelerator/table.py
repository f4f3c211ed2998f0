"""The kit's measurements as a table for a terminal."""

from typing import Any

HIDDEN = ("section", "figure", "time", "top", "report", "versions", "evaluations")
WIDTH = 150


def text(lines: list[dict[str, Any]]) -> str:
    """One row per measurement: section, name, values; nested values are left to the JSON."""
    rows = []
    for line in lines:
        if "figure" not in line:
            continue
        shown = {
            k: v for k, v in line.items() if k not in HIDDEN and not isinstance(v, dict | list)
        }
        values = " ".join(f"{name}={_short(value)}" for name, value in shown.items())
        rows.append(f"{line['section']:<12}{line['figure']:<46} {values}"[:WIDTH])
    return "\n".join(rows)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
