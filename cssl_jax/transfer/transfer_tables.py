"""Tables of fine-tuning and domain adaptation, and the sentences that belong to them."""

from cssl_jax.report.table import Cell, Column, Table, to_terminal
from cssl_jax.transfer.transfer_results import (
    AdaptationResults,
    FinetuneResults,
    SeedScores,
    TrainedScores,
)

TransferResults = FinetuneResults | AdaptationResults
_DOMAINS = ("target", "source")  # the domain in question first


def format_results(results: TransferResults) -> str:
    """Table and sentences for the terminal."""
    return "\n\n".join(
        part for part in (to_terminal(table(results)), "\n".join(sentences(results))) if part
    )


def table(results: TransferResults) -> Table:
    """Top-1 accuracies: by fraction of the labels, or by setting and domain."""
    if isinstance(results, FinetuneResults):
        return _finetune_table(results)
    return _adaptation_table(results)


def sentences(results: TransferResults) -> list[str]:
    """How the accuracies are to be read, one sentence or two per line."""
    if isinstance(results, FinetuneResults):
        selection = results.selection.words if results.selection else None
        return selection.splitlines() if selection else []
    return [
        f"mean +- standard deviation over {results.seeds} training seed(s); last epoch, not "
        "selected on any data.",
        _use_of_labels(results),
        *(leakage.words for leakage in (results.leakage or {}).values() if leakage.words),
    ]


def _finetune_table(results: FinetuneResults) -> Table:
    fractions = results.fractions
    columns = [
        Column(f"{100 * float(fraction):g} % ({scores.labels:,})", "%")
        for fraction, scores in fractions.items()
    ]
    rows: list[list[Cell]] = [
        [label, *(_top1(scores.get(name)) for scores in fractions.values())]
        for name, label in results.labels.items()
    ]
    trained = [scores.pretrained or TrainedScores() for scores in fractions.values()]
    rows.append(["steps x batch size", *map(_duration, trained)])
    rows.append(["learning rate", *map(_learning_rate, trained)])
    return Table(["top-1 by labels", *columns], rows)


def _top1(scores: dict[str, float] | None) -> float | None:
    return scores["top1"] if scores else None


def _duration(scores: TrainedScores) -> str | None:
    if scores.steps is None or scores.batch_size is None:
        return None
    return f"{scores.steps:,} x {scores.batch_size:,}"


def _learning_rate(scores: TrainedScores) -> str | None:
    return None if scores.learning_rate is None else f"{scores.learning_rate:.2g}"


def _adaptation_table(results: AdaptationResults) -> Table:
    images = results.images
    columns = [Column(f"{name} ({images[f'{name}_test']:,})", width=18) for name in _DOMAINS]
    rows = [
        [results.labels.get(name, name), *(_mean(scores.get(domain)) for domain in _DOMAINS)]
        for name, scores in results.rows.items()
    ]
    return Table(["top-1 on held-out examples", *columns], rows)


def _mean(accuracy: SeedScores | None) -> str:
    if accuracy is None:
        return "no labels"
    deviation = "" if accuracy.std is None else f" +- {100 * accuracy.std:.1f}"
    return f"{100 * accuracy.mean:.1f}{deviation} %"


def _use_of_labels(results: AdaptationResults) -> str:
    if "target" in results.rows:
        return "Labels of the target are used for training in the target-supervised row only."
    if any(scores.target for scores in results.rows.values()):
        return "No training example of the target has a label: there is no target-supervised row."
    return "No held-out example of the target has a label: accuracy on the target is unknown."
