"""The tables of a report, as rows of plain text for the page and for Markdown."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from cssl_jax import recipes
from cssl_jax.evaluate import verdicts
from cssl_jax.evaluate.accuracy import shows_top5
from cssl_jax.report.run_reader import RunFolder
from cssl_jax.report.svg import number

ROWS = (("trained", None), ("untrained encoder", "random_init"), ("raw pixels", "pixels"))
_SHARES = ("top", "recall", "accuracy", "map", "mean_average_precision")
NONE = "-"  # a cell without a figure
_NUMBERS = ("alignment", "uniformity", "rankme")
_NO_PROTOCOL = ("features", "split", "versions", "random_init", "pixels")


@dataclasses.dataclass(frozen=True)
class Table:
    """Plain text in rows.

    Attributes:
        head: A title a column.
        rows: As many cells each; the first names the row.
    """

    head: list[str]
    rows: list[list[str]]


def results_table(runs: Sequence[RunFolder]) -> Table | None:
    """Every protocol's figures beside the untrained encoder's and raw pixels'; None without any."""
    rows: list[tuple[str, dict[str, str]]] = []
    for run in runs:
        if not run.finished:
            continue
        for title, key in ROWS:
            content = run.results if key is None else run.results.get(key, {})
            label = f"{run.name}: {title}" if len(runs) > 1 else title
            rows.append((label, _figures(content, run.results.get("num_classes", 0))))
    columns = list(dict.fromkeys(name for _, cells in rows for name in cells))
    if not columns:
        return None
    return Table(
        ["", *columns], [[label, *(cells.get(c, NONE) for c in columns)] for label, cells in rows]
    )


def _figures(row: dict[str, Any], classes: int) -> dict[str, str]:
    found = {}
    for name, value in row.items():
        if isinstance(value, dict) and name not in _NO_PROTOCOL:
            for inner, figure in value.items():
                if inner.startswith("top5") and not shows_top5(classes):
                    continue
                if inner.startswith(_SHARES) and _is_number(figure):
                    title = f"{name} {inner}".replace("top", "top-").replace("_", " ")
                    found[title] = f"{100 * figure:.1f} %"
        elif name == "view_retrieval" and _is_number(value):
            found["view retrieval"] = f"{100 * value:.1f} %"
        elif name in _NUMBERS and _is_number(value):
            found[name] = f"{value:.3f}"
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def diagnostics_table(runs: Sequence[RunFolder]) -> Table | None:
    """The newest figures that verdicts rest on, with their thresholds."""
    newest = [_newest(run) for run in runs]
    rows = []
    for title, name, factor, unit, threshold in _diagnostics(runs):
        cells = [
            number(factor * figures[name]) + unit if name in figures else NONE for figures in newest
        ]
        if any(cell != NONE for cell in cells):
            rows.append([title, *cells, threshold])
    if not rows:
        return None
    return Table(["figure", *[run.name for run in runs], "accused where"], rows)


def _newest(run: RunFolder) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if run.steps:
        # A step whose update was skipped has nulls.
        figures |= {name: value for name, value in run.steps[-1].items() if value is not None}
        if "loss" in figures:
            figures["loss_minus_chance"] = figures["loss"] - figures.get("chance_level", 0.0)
    for line in run.online:
        figures |= {name: value for name, value in line.items() if name.startswith("features.")}
    if "features.std" in figures:
        apart = 2 * figures["features.std"] ** 2
        figures["features.relative_alignment"] = figures["features.alignment"] / (apart or 1.0)
    waited = [line for line in run.timings if "input_wait" in line][1:]
    if seconds := sum(line["seconds"] for line in waited):
        figures["input_wait"] = sum(w["input_wait"] * w["seconds"] for w in waited) / seconds
    return figures


def _diagnostics(runs: Sequence[RunFolder]) -> list[tuple[str, str, float, str, str]]:
    share, v = 100.0, verdicts
    return [
        ("loss minus chance level", "loss_minus_chance", 1.0, "", f"within {v.AT_CHANCE:.0%} of 0"),
        (
            "contrastive accuracy",
            "contrastive_accuracy",
            share,
            " %",
            f"at least {v.TOO_EASY:.0%} in the first half",
        ),
        ("RankMe", "features.rankme", 1.0, "", f"below {v.RANK_SHARE:.0%} of the next line"),
        ("largest possible rank", "features.rank_limit", 1.0, "", ""),
        ("uniformity", "features.uniformity", 1.0, "", f"above {v.POINT}"),
        (
            "alignment, of the distance of any two",
            "features.relative_alignment",
            1.0,
            "",
            f"above {v.TOO_HARD} past half",
        ),
        ("deviation (1 is a sphere)", "features.std", 1.0, "", ""),
        ("dead dimensions", "features.dead", share, " %", f"above {v.DEAD_SHARE:.0%}"),
        (
            "neighbour purity",
            "features.neighbour_purity",
            share,
            " %",
            f"within {v.ERRORS:.0f} standard errors of the next line",
        ),
        ("purity by chance", "features.purity_chance", share, " %", ""),
        (
            "median LARS trust ratio",
            "trust_ratio_median",
            1.0,
            "",
            f"above {v.DECAY_SHARE} eta / lambda",
        ),
        ("waiting for input", "input_wait", share, " %", f"above {v.INPUT_WAIT:.0%}"),
    ]


def config_table(runs: Sequence[RunFolder]) -> Table:
    """Fields in which the runs differ; of one run, those that differ from the nearest recipe."""
    if len(runs) == 1:
        name, fields = nearest_recipe(runs[0])
        rows = [[field, _value(a), _value(b)] for field, (a, b) in fields.items()]
        return Table(["field", f"recipe {name}", "this run"], rows)
    names: dict[str, None] = {}
    for run in runs[1:]:
        names |= dict.fromkeys(recipes.differing_fields(runs[0].config, run.config))
    rows = [[name, *(_value(_field(run, name)) for run in runs)] for name in names]
    return Table(["field", *[run.name for run in runs]], rows)


def nearest_recipe(run: RunFolder) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """(name, differing fields) of the recipe that a run's config is nearest to."""
    known = {
        name: recipes.differing_fields(recipes.load(name), run.config)
        for name in recipes.recipe_names()
    }
    name = min(known, key=lambda name: len(known[name]))
    return name, known[name]


def _field(run: RunFolder, name: str) -> Any:
    value: Any = recipes.to_dict(run.config)
    for part in name.split("."):
        value = value[part]
    return value


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def environment_table(
    runs: Sequence[RunFolder], environments: Sequence[dict[str, str]]
) -> Table | None:
    """What each run was made with; a checkpoint knows the machine, results.json the versions."""
    found = [
        {**run.results.get("versions", {}), **known}
        for run, known in zip(runs, environments, strict=True)
    ]
    names = list(dict.fromkeys(name for one in found for name in one))
    if not names:
        return None
    rows = [[name, *(str(one.get(name, NONE)) for one in found)] for name in names]
    return Table(["", *[run.name for run in runs]], rows)


def speed(run: RunFolder) -> str:
    """How fast it trained, in words; "" before the second line of timings."""
    lines = run.timings[1:]
    seconds = sum(line["seconds"] for line in lines)
    if not seconds:
        return ""
    images = sum(line["images_per_second"] * line["seconds"] for line in lines)
    return f"{images / seconds:,.0f} images/s over {seconds / 60:.1f} min of steps"


def repeat_command(run: RunFolder) -> str:
    """The command that trains the same again."""
    return f"cssl-jax pretrain {quoted(str(run.path / 'config.json'))} --workdir NEW_RUN"


def quoted(word: str) -> str:
    """A word as a POSIX shell takes it."""
    import shlex

    return shlex.quote(word)
