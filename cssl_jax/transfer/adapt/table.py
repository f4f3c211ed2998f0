"""Table of adaptation results: mean and standard deviation per setting and domain."""

import statistics
from collections.abc import Sequence
from typing import Any

from cssl_jax.evaluate.results import BASELINES
from cssl_jax.transfer.adapt.experiments import ROWS

Metrics = dict[str, Any]


def spread(values: Sequence[float]) -> Metrics:
    """{"top1": values, "mean": mean, "std": sample standard deviation (None for one value)}."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"top1": list(values), "mean": statistics.fmean(values), "std": deviation}


def format_results(results: Metrics) -> str:
    """Plain-text table of top-1 accuracy per setting and domain."""
    images = results["images"]
    columns = [f"{name} ({images[f'{name}_test']:,})" for name in ("target", "source")]
    lines = [f"{'top-1 on held-out images':<36}" + "".join(f"{column:>18}" for column in columns)]
    baselines = results.get("baseline_labels", {"pixels": BASELINES["pixels"]})  # of older files
    labels = {**ROWS, **{name: f"source only, on {label}" for name, label in baselines.items()}}
    for row, by_domain in results["rows"].items():
        cells = [_cell(by_domain.get(name)) for name in ("target", "source")]
        lines.append(f"{labels[row]:<36}" + "".join(f"{cell:>18}" for cell in cells))
    lines.append(
        f"\nmean +- standard deviation over {results['seeds']} training seed(s); last epoch, not "
        f"selected on any data.\n{_use_of_labels(results['rows'])}"
    )
    lines += [leakage["words"] for leakage in results["leakage"].values()]
    return "\n".join(lines)


def _cell(accuracy: Metrics | None) -> str:
    if accuracy is None:
        return "no labels"
    deviation = "" if accuracy["std"] is None else f" +- {100 * accuracy['std']:.1f}"
    return f"{100 * accuracy['mean']:.1f}{deviation} %"


def _use_of_labels(rows: Metrics) -> str:
    if "target" in rows:
        return "Labels of the target are used for training in the target-supervised row only."
    if any("target" in by_domain for by_domain in rows.values()):
        return "No training image of the target has a label: there is no target-supervised row."
    return "No held-out image of the target has a label: accuracy on the target is unknown."
