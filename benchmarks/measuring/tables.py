"""Markdown tables of measured values, and where the values come from."""

from typing import Any

Rows = dict[str, list[str]]


def markdown(head: list[str], rows: Rows) -> str:
    """A Markdown table; rows are by their first cell."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join([name, *cells]) + " |" for name, cells in rows.items()]
    return "\n".join(lines) + "\n"


def provenance(report: dict[str, Any], repeats: str) -> str:
    """Where a table's values come from, in one line below it."""
    versions = report["versions"]
    return f"\nMeasured {report['date']}, {report['machine']}, jax {versions['jax']}; {repeats}.\n"


def best_in_bold(rows: Rows) -> Rows:
    """The highest value of every row in bold."""
    return {name: _bold(cells) for name, cells in rows.items()}


def best_in_bold_by_column(rows: Rows) -> Rows:
    """The highest value of every column in bold."""
    columns = [_bold(list(column)) for column in zip(*rows.values(), strict=True)]
    return dict(zip(rows, map(list, zip(*columns, strict=True)), strict=True))


def _bold(cells: list[str]) -> list[str]:
    values = [float("-inf") if cell == "-" else float(cell.split()[0]) for cell in cells]
    return [
        f"**{cell}**" if value == max(values) else cell
        for cell, value in zip(cells, values, strict=True)
    ]


def percent(fraction: float) -> str:
    """0.486 -> "48.6"."""
    return f"{100 * fraction:.1f}"
