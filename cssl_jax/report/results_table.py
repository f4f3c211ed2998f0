"""Results of an evaluation as tables, for the terminal and for the report."""

from collections.abc import Callable, Iterable, Sequence

from cssl_jax.evaluate.accuracy import shows_top5
from cssl_jax.evaluate.results import Results
from cssl_jax.evaluate.scores import Accuracy, BaselineScores, Scores, Shot
from cssl_jax.report.table import NONE, Cell, Column, Table, to_terminal

Row = tuple[str, Scores]  # label and metrics of one encoder
LABEL_FREE = ("view_retrieval", "alignment", "uniformity", "rankme")
CLASSES = 10  # classes per table of segmentation; more columns would not fit a terminal


def format_results(results: Results) -> str:
    """Formats the metrics and findings of an evaluation for the terminal.

    Args:
        results: Results of a run or of an evaluation; protocols that did not run have no table.

    Returns:
        Tables with a row for the trained encoder and one per baseline, then one finding per line.
    """
    parts = [to_terminal(found) for found in results_tables(results.rows, results.num_classes or 0)]
    parts += [_checkpoints(results), "\n".join(sentences(results))]
    return "\n\n".join(part for part in parts if part)


def results_tables(rows: Sequence[Row], classes: int) -> list[Table]:
    """Tables of all protocols with a row per encoder.

    Args:
        rows: Label and metrics per encoder; a metric that an encoder does not have is "-".
        classes: Number of classes; top-5 accuracy is shown if there are enough of them.
    """
    tables = [_accuracies(rows, classes), _by_k(rows), _few_shot(rows), _retrieval(rows)]
    more = (*_segment(rows), *_groups(rows), *_sts(rows))
    return [found for found in (*tables, *more) if found is not None]


def _table(
    corner: str,
    columns: Sequence[Column],
    rows: Sequence[Row],
    values: Callable[[Scores], Iterable[Cell]],
) -> Table:
    return Table([corner, *columns], [[label, *values(scores)] for label, scores in rows])


def _accuracies(rows: Sequence[Row], classes: int) -> Table | None:
    # A table has the protocols of the trained encoders, even if its baselines have more of them.
    trained = [scores for _, scores in rows if not isinstance(scores, BaselineScores)]
    names = dict.fromkeys(name for scores in trained for name in scores.accuracies)
    if not names:
        if not any(name in scores for _, scores in rows for name in LABEL_FREE):
            return None
        columns = [Column(name, decimals=3) for name in LABEL_FREE]
        return _table("", columns, rows, lambda scores: map(scores.get, LABEL_FREE))
    tops = ("top1", "top5") if shows_top5(classes) else ("top1",)
    metrics = [(name, top) for name in names for top in tops]
    columns = [Column(f"{name} {top.replace('top', 'top-')}", "%") for name, top in metrics]

    def values(scores: Scores) -> list[Cell]:
        return [getattr(scores.accuracies.get(name), top, None) for name, top in metrics]

    return _table("", columns, rows, values)


def _by_k(rows: Sequence[Row]) -> Table | None:
    def by_k(scores: Scores) -> dict[str, Accuracy]:
        return (scores.knn and scores.knn.by_k) or {}

    ks = list(dict.fromkeys(k for _, scores in rows for k in by_k(scores)))
    if len(ks) < 2:
        return None
    columns = [Column(k, "%", width=9) for k in ks]
    return _table(
        "knn top-1 by k",
        columns,
        rows,
        lambda scores: [getattr(by_k(scores).get(k), "top1", None) for k in ks],
    )


def _few_shot(rows: Sequence[Row]) -> Table | None:
    def shots(scores: Scores) -> dict[str, Shot]:
        return (scores.few_shot and scores.few_shot.shots) or {}

    counts = list(dict.fromkeys(count for _, scores in rows for count in shots(scores)))
    if not counts:
        return None
    columns = [Column(f"{count} per class") for count in counts]
    return _table(
        "labels, top-1",
        columns,
        rows,
        lambda scores: [_with_interval(shots(scores).get(count)) for count in counts],
    )


def _with_interval(shot: Shot | None) -> str:
    if shot is None or shot.top1 is None or shot.ci95 is None:
        return NONE
    return f"{100 * shot.top1:.1f} +- {100 * shot.ci95:.1f} %"


def _retrieval(rows: Sequence[Row]) -> Table | None:
    def recall(scores: Scores) -> dict[str, float | None]:
        return (scores.retrieval and scores.retrieval.recall) or {}

    if not any(scores.retrieval and scores.retrieval.queries for _, scores in rows):
        return None
    ks = list(dict.fromkeys(k for _, scores in rows for k in recall(scores)))
    columns = [Column(title, "%", width=12) for title in (*(f"recall@{k}" for k in ks), "mAP")]
    return _table(
        "retrieval",
        columns,
        rows,
        lambda scores: [*map(recall(scores).get, ks), getattr(scores.retrieval, "map", None)],
    )


def _segment(rows: Sequence[Row]) -> list[Table]:
    found = [(label, scores.segment) for label, scores in rows if scores.segment is not None]
    if not found:
        return []
    columns = [Column("mean IoU", "%"), Column("pixel accuracy", "%")]
    tables = [Table(["", *columns], [[label, s.mean_iou, s.pixel_accuracy] for label, s in found])]
    classes = max(len(segment.per_class_iou or ()) for _, segment in found)
    for start in range(0, classes, CLASSES):
        numbers = range(start, min(start + CLASSES, classes))
        columns = [Column(str(number), "%", width=9) for number in numbers]
        cells = [
            [label, *(segment.per_class_iou or ())[start : start + CLASSES]]
            for label, segment in found
        ]
        tables.append(Table(["IoU by class", *columns], cells))
    return tables


def _groups(rows: Sequence[Row]) -> list[Table]:
    """Mean over the groups, and the accuracy on each, at most ``CLASSES`` groups per table."""
    found = [(label, scores.groups) for label, scores in rows if scores.groups is not None]
    names = list(dict.fromkeys(name for _, groups in found for name in groups.by_group or ()))
    if not names:
        return []
    columns = [Column("mean", "%"), Column("std over groups", "%")]
    tables = [Table(["held-out groups", *columns], [[a, g.top1, g.top1_std] for a, g in found])]
    for start in range(0, len(names), CLASSES):
        shown = names[start : start + CLASSES]
        cells = [
            [label, *(getattr((groups.by_group or {}).get(name), "top1", None) for name in shown)]
            for label, groups in found
        ]
        tables.append(Table(["by group", *(Column(name, "%", width=9) for name in shown)], cells))
    return tables


def _sts(rows: Sequence[Row]) -> list[Table]:
    found = [(label, scores.sts) for label, scores in rows if scores.sts is not None]
    if not found:
        return []
    columns = [Column("spearman x 100"), Column("pearson x 100")]
    cells = [[label, *map(_hundredfold, (s.spearman, s.pearson))] for label, s in found]
    return [Table([f"sts, {found[0][1].pairs:,} pairs", *columns], cells)]


def _hundredfold(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def _checkpoints(results: Results) -> str:
    best = results.best
    if best is None or best.last is None:
        return ""
    rows = [(f"last, step {results.step}", best.last), (f"best, step {best.step}", best)]
    found = _accuracies(rows, results.num_classes or 0)
    title = f"on {best.images:,} examples that were not used for selection"
    return "" if found is None else f"{title}\n{to_terminal(found)}"


def sentences(results: Results) -> list[str]:
    """Findings that the tables do not show: settings, selection of checkpoints, leakage."""
    lines = []
    linear, few_shot = results.linear, results.few_shot
    if linear is not None and linear.top1_std is not None:
        lines.append(
            f"linear: penalty {linear.l2:.2g} selected on a held-out fifth of the training "
            f"examples; over {linear.seeds} such fifths top-1 has a standard deviation of "
            f"{100 * linear.top1_std:.2f} points"
        )
    if few_shot is not None:
        lines.append(f"few labels: mean of {few_shot.draws} draws +- its 95 % interval")
        if few_shot.left_out:
            lines[-1] += (
                f"; skipped: {', '.join(map(str, few_shot.left_out))} per class, because the "
                f"smallest class has {few_shot.smallest_class} examples"
            )
    if results.selection is not None and results.selection.words:
        lines.append(results.selection.words)
    if results.encoder_hash is not None and results.encoder_hash.last:
        lines.append(f"encoder: unchanged by the evaluation, {results.encoder_hash.last[:12]}")
    leakage = results.leakage or {}
    return lines + [finding.words for finding in leakage.values() if finding.words]
