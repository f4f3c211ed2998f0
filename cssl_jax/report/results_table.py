"""Results of an evaluation as plain-text tables for the terminal."""

from collections.abc import Sequence
from typing import Any

from cssl_jax.evaluate.accuracy import shows_top5

Row = tuple[str, dict[str, Any]]


def format_results(results: dict[str, Any]) -> str:
    """Formats the metrics and findings of an evaluation.

    Args:
        results: Content of ``results.json``; tables of protocols that did not run are omitted.

    Returns:
        Tables with a row for the trained encoder and one per baseline, then one finding per line.
    """
    rows = [("trained encoder", results)]
    baselines = {"untrained encoder": "random_init", "raw pixels": "pixels"}
    rows += [(label, results[name]) for label, name in baselines.items() if name in results]
    classes = results.get("num_classes", 0)
    parts = [
        _accuracies(rows, classes),
        _by_k(rows),
        _few_shot(rows),
        _retrieval(rows),
        _segment(rows),
    ]
    parts += [_checkpoints(results, classes), "\n".join(_sentences(results))]
    return "\n\n".join(part for part in parts if part)


def _accuracies(rows: Sequence[Row], classes: int) -> str:
    names = [name for name in ("linear", "knn", "classifier") if name in rows[0][1]]
    if names:
        tops = ("top1", "top5") if shows_top5(classes) else ("top1",)
        columns = [(f"{name} {top}", name, top) for name in names for top in tops]
        heads = [title.replace("top", "top-") for title, _, _ in columns]
        cells = [[f"{100 * row[name][top]:.1f} %" for _, name, top in columns] for _, row in rows]
    elif "view_retrieval" in rows[0][1]:
        heads = ["view_retrieval", "alignment", "uniformity", "rankme"]
        cells = [[_decimal(row[name]) for name in heads] for _, row in rows]
    else:
        return ""
    return _lines("", heads, [label for label, _ in rows], cells, 16)


def _by_k(rows: Sequence[Row]) -> str:
    ks = list(rows[0][1].get("knn", {}).get("by_k", ()))
    if len(ks) < 2:
        return ""
    cells = [[f"{100 * row['knn']['by_k'][k]['top1']:.1f} %" for k in ks] for _, row in rows]
    return _lines("knn top-1 by k", ks, [label for label, _ in rows], cells, 9)


def _few_shot(rows: Sequence[Row]) -> str:
    trained = rows[0][1].get("few_shot", {})
    if not trained.get("shots"):
        return ""
    heads = [f"{k} per class" for k in trained["shots"]]
    cells = [
        [_with_interval(row["few_shot"]["shots"][k]) for k in trained["shots"]] for _, row in rows
    ]
    return _lines("labels, top-1", heads, [label for label, _ in rows], cells, 16)


def _with_interval(metrics: dict[str, float]) -> str:
    return f"{100 * metrics['top1']:.1f} +- {100 * metrics['ci95']:.1f} %"


def _retrieval(rows: Sequence[Row]) -> str:
    trained = rows[0][1].get("retrieval")
    if not trained or not trained["queries"]:
        return ""
    heads = [*(f"recall@{k}" for k in trained["recall"]), "mAP"]
    cells = [
        [
            f"{100 * value:.1f} %"
            for value in (*row["retrieval"]["recall"].values(), row["retrieval"]["map"])
        ]
        for _, row in rows
    ]
    return _lines("retrieval", heads, [label for label, _ in rows], cells, 12)


def _segment(rows: Sequence[Row]) -> str:
    if "segment" not in rows[0][1]:
        return ""
    labels = [label for label, _ in rows]
    scores = [row["segment"] for _, row in rows]
    cells = [[_percent(s["mean_iou"]), _percent(s["pixel_accuracy"])] for s in scores]
    tables = [_lines("", ["mean IoU", "pixel accuracy"], labels, cells, 16)]
    classes = len(scores[0]["per_class_iou"])
    for start in range(0, classes, 10):  # more columns would not fit a terminal
        heads = [str(number) for number in range(start, min(start + 10, classes))]
        cells = [[_percent(iou) for iou in s["per_class_iou"][start : start + 10]] for s in scores]
        tables.append(_lines("IoU by class", heads, labels, cells, 9))
    return "\n\n".join(tables)


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def _checkpoints(results: dict[str, Any], classes: int) -> str:
    best = results.get("best")
    if not best or "last" not in best:
        return ""
    rows = [(f"last, step {results['step']}", best["last"]), (f"best, step {best['step']}", best)]
    title = f"on {best['images']:,} images that were not used for selection"
    return f"{title}\n{_accuracies(rows, classes)}"


def _sentences(results: dict[str, Any]) -> list[str]:
    lines = []
    if "top1_std" in results.get("linear", {}):
        probe = results["linear"]
        lines.append(
            f"linear: penalty {probe['l2']:.2g} selected on a held-out fifth of the training "
            f"images; over {probe['seeds']} such fifths top-1 has a standard deviation of "
            f"{100 * probe['top1_std']:.2f} points"
        )
    if "few_shot" in results:
        few_shot = results["few_shot"]
        lines.append(f"few labels: mean of {few_shot['draws']} draws +- its 95 % interval")
        if few_shot["left_out"]:
            lines[-1] += (
                f"; skipped: {', '.join(map(str, few_shot['left_out']))} per class, because the "
                f"smallest class has {few_shot['smallest_class']} images"
            )
    if "selection" in results:
        lines.append(results["selection"]["words"])
    if "encoder_hash" in results:
        lines.append(
            f"encoder: unchanged by the evaluation, {results['encoder_hash']['last'][:12]}"
        )
    lines += [leakage["words"] for leakage in results.get("leakage", {}).values()]
    return lines


def _lines(
    corner: str, heads: Sequence[str], labels: Sequence[str], cells: list[list[str]], width: int
) -> str:
    lines = [f"{corner:<20}" + "".join(f"{head:>{width}}" for head in heads)]
    lines += [
        f"{label:<20}" + "".join(f"{cell:>{width}}" for cell in row)
        for label, row in zip(labels, cells, strict=True)
    ]
    return "\n".join(lines)
