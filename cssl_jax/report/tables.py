"""Tables of a report, for the page and for Markdown."""

import json
from collections.abc import Sequence
from typing import Any

from cssl_jax import recipes
from cssl_jax.evaluate import verdicts
from cssl_jax.report.figures.svg import number
from cssl_jax.report.results_table import results_tables
from cssl_jax.report.run_reader import RunFolder
from cssl_jax.report.table import NONE, Table
from cssl_jax.train.run_dir import IMPORTED


def encoder_tables(runs: Sequence[RunFolder]) -> list[Table]:
    """Metrics of all protocols for the trained encoders and their baselines.

    Returns:
        Tables with a row per run and encoder; empty if no run is finished or has such metrics.
    """
    found = [(run.name, run.results) for run in runs if run.results is not None]
    rows = [
        (f"{name}: {label}" if len(runs) > 1 else label, scores)
        for name, results in found
        for label, scores in results.rows
    ]
    return results_tables(rows, max((results.num_classes or 0 for _, results in found), default=0))


def diagnostics_table(runs: Sequence[RunFolder]) -> Table | None:
    """Newest values of the metrics behind the verdicts, with their thresholds; None without any."""
    newest = [_newest_metrics(run) for run in runs]
    rows = []
    for title, name, factor, unit, threshold in _diagnostics():
        cells = [
            number(factor * metrics[name]) + unit if name in metrics else NONE for metrics in newest
        ]
        if any(cell != NONE for cell in cells):
            rows.append([title, *cells, threshold])
    if not rows:
        return None
    return Table(["metric", *[run.name for run in runs], "flagged if"], rows)


def _newest_metrics(run: RunFolder) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    if run.steps:
        # A step whose update was skipped has null values.
        metrics |= {name: value for name, value in run.steps[-1].items() if value is not None}
        if "loss" in metrics:
            metrics["loss_minus_chance"] = metrics["loss"] - metrics.get("chance_level", 0.0)
    for line in run.online:
        metrics |= {name: value for name, value in line.items() if name.startswith("features.")}
    if "features.std" in metrics:
        # The mean squared distance of two independent samples is twice their total variance.
        mean_distance = 2 * metrics["features.std"] ** 2
        alignment = metrics["features.alignment"]
        metrics["features.relative_alignment"] = alignment / (mean_distance or 1.0)
    # The first line includes compilation.
    lines = [line for line in run.timings if "input_wait" in line][1:]
    if seconds := sum(line["seconds"] for line in lines):
        metrics["input_wait"] = sum(x["input_wait"] * x["seconds"] for x in lines) / seconds
    return metrics


def _diagnostics() -> list[tuple[str, str, float, str, str]]:
    """Tuples (title, metric name, factor, unit, threshold) of the diagnostics table."""
    percent, v = 100.0, verdicts
    return [
        ("loss minus chance level", "loss_minus_chance", 1.0, "", f"within {v.AT_CHANCE:.0%} of 0"),
        (
            "contrastive accuracy",
            "contrastive_accuracy",
            percent,
            " %",
            f"at least {v.TOO_EASY:.0%} in the first half",
        ),
        ("RankMe", "features.rankme", 1.0, "", f"below {v.RANK_FRACTION:.0%} of the next line"),
        ("maximum possible rank", "features.rank_limit", 1.0, "", ""),
        ("uniformity", "features.uniformity", 1.0, "", f"above {v.POINT}"),
        (
            "alignment / mean squared distance",
            "features.relative_alignment",
            1.0,
            "",
            f"above {v.TOO_HARD} in the second half",
        ),
        ("deviation (1: spread over the sphere)", "features.std", 1.0, "", ""),
        ("dead dimensions", "features.dead", percent, " %", f"above {v.DEAD_FRACTION:.0%}"),
        (
            "neighbour purity",
            "features.neighbour_purity",
            percent,
            " %",
            f"within {v.ERRORS:.0f} standard errors of the next line",
        ),
        ("purity by chance", "features.purity_chance", percent, " %", ""),
        (
            "median LARS trust ratio",
            "trust_ratio_median",
            1.0,
            "",
            f"above {v.DECAY_FRACTION} eta / lambda",
        ),
        ("waiting for input", "input_wait", percent, " %", f"above {v.INPUT_WAIT:.0%}"),
    ]


def config_table(runs: Sequence[RunFolder]) -> Table:
    """Config fields that differ between the runs; for one run, from the nearest recipe."""
    if len(runs) == 1:
        name, fields = nearest_recipe(runs[0])
        rows = [[field, _format(a), _format(b)] for field, (a, b) in fields.items()]
        return Table(["field", f"recipe {name}", "this run"], rows)
    names: dict[str, None] = {}
    for run in runs[1:]:
        names |= dict.fromkeys(recipes.differing_fields(runs[0].config, run.config))
    rows = [[name, *(_format(_field_value(run, name)) for run in runs)] for name in names]
    return Table(["field", *[run.name for run in runs]], rows)


def nearest_recipe(run: RunFolder) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """Finds the recipe with the fewest fields that differ from a run's config.

    Returns:
        Name of the recipe, and field name to (recipe's value, run's value) of each difference.
    """
    differences = {
        name: recipes.differing_fields(recipes.load(name), run.config)
        for name in recipes.recipe_names()
    }
    name = min(differences, key=lambda name: len(differences[name]))
    return name, differences[name]


def _field_value(run: RunFolder, name: str) -> Any:
    value: Any = recipes.to_dict(run.config)
    for key in name.split("."):
        value = value[key]
    return value


def _format(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def environment_table(
    runs: Sequence[RunFolder], environments: Sequence[dict[str, str]]
) -> Table | None:
    """Machine and package versions per run; None if they are unknown.

    Args:
        runs: Logs and results per run; results.json has the package versions.
        environments: Machine and package versions from the checkpoint, per run; may be empty.
    """
    merged = [
        {**((run.results and run.results.versions) or {}), **environment}
        for run, environment in zip(runs, environments, strict=True)
    ]
    names = list(dict.fromkeys(name for entries in merged for name in entries))
    if not names:
        return None
    rows = [[name, *(str(entries.get(name, NONE)) for entries in merged)] for name in names]
    return Table(["", *[run.name for run in runs]], rows)


def speed(run: RunFolder) -> str:
    """Training throughput and time as text; "" before the second line of timings."""
    lines = run.timings[1:]  # the first line includes compilation
    seconds = sum(line["seconds"] for line in lines)
    if not seconds:
        return ""
    images = sum(line["images_per_second"] * line["seconds"] for line in lines)
    return f"{images / seconds:,.0f} examples/s over {seconds / 60:.1f} min of steps"


def repeat_command(run: RunFolder) -> str:
    """Command that repeats the run with its config, or the import of its weights."""
    try:
        origin = json.loads((run.path / IMPORTED).read_text())
        words = [origin["file"], "--workdir", "NEW_RUN", *origin.get("options", [])]
        return f"cssl-jax import {' '.join(map(quoted, words))}"
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no imported run, or one whose record is damaged
    return f"cssl-jax pretrain {quoted(str(run.path / 'config.json'))} --workdir NEW_RUN"


def quoted(argument: str) -> str:
    """Quotes an argument for a POSIX shell."""
    import shlex

    return shlex.quote(argument)
