"""What an adaptation found, as a person compares it: mean and deviation by row and domain."""

import statistics
from collections.abc import Sequence
from typing import Any

from cssl_jax.transfer.adapt.experiments import ROWS

Figures = dict[str, Any]


def spread(values: Sequence[float]) -> Figures:
    """{"top1": the values, "mean", "std" (of a sample; None of a single value)}."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"top1": list(values), "mean": statistics.fmean(values), "std": deviation}


def table(results: Figures) -> str:
    """Top-1 of each row on both domains, as plain text."""
    images = results["images"]
    heads = [f"{name} ({images[f'{name}_test']:,})" for name in ("target", "source")]
    lines = [f"{'top-1 on held-out images':<36}" + "".join(f"{head:>18}" for head in heads)]
    for row, found in results["rows"].items():
        cells = [_cell(found.get(name)) for name in ("target", "source")]
        lines.append(f"{ROWS[row]:<36}" + "".join(f"{cell:>18}" for cell in cells))
    lines.append(
        f"\nmean +- standard deviation over {results['seeds']} seed(s) of training; the last "
        f"epoch, chosen by nothing.\n{_use_of_labels(results['rows'])}"
    )
    lines += [found["words"] for found in results["leakage"].values()]
    return "\n".join(lines)


def _cell(found: Figures | None) -> str:
    if found is None:
        return "no labels"
    deviation = "" if found["std"] is None else f" +- {100 * found['std']:.1f}"
    return f"{100 * found['mean']:.1f}{deviation} %"


def _use_of_labels(rows: Figures) -> str:
    if "target" in rows:
        return "Labels of the target train the target-supervised row alone."
    if any("target" in found for found in rows.values()):
        return "No training image of the target has a label: there is no target-supervised row."
    return "No held-out image of the target has a label: nothing tells how right a row is there."
