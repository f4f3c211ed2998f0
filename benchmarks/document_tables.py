"""The tables of README.md and docs/ that come from ``benchmarks/results/``, written in place.

A table stands between ``<!-- table: NAME -->`` and ``<!-- /table -->``, with the command,
machine and date of its measurement below it. A test checks that every one is up to date.

Command: python benchmarks/document_tables.py [--check]
"""

import argparse
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

from input import document_tables as inputs
from measuring.report import spread
from measuring.tables import best_in_bold, best_in_bold_by_column, markdown, percent, provenance
from step import document_tables as step

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def main() -> None:
    """Writes the tables, or names the files whose tables differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    check = parser.parse_args().check
    stale = []
    for path in documents():
        text = path.read_text()
        new = filled(text)
        if new != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new)
    if check and stale:
        raise SystemExit(
            f"not up to date: {', '.join(stale)}; run python benchmarks/document_tables.py"
        )


def documents() -> list[pathlib.Path]:
    """README.md and the Markdown files of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """A document with all of its tables rewritten."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{TABLES[match[2]]()}\n{match[3]}"

    return BLOCK.sub(block, text)


def load(name: str) -> Any:
    """One file of ``benchmarks/results/``."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def digits() -> str:
    """Probes over seeds, and paired differences."""
    report = load("digits")

    def cells(row: dict[str, Any]) -> list[str]:
        found = [row[name] for name in ("linear", "knn")]
        return [f"{x['mean']:.2f} +- {x['standard_error']:.2f}" for x in found]

    rows = {name: cells(row) for name, row in report["probes"].items()}
    rows = best_in_bold_by_column(rows)
    for name, row in report["differences"].items():
        rows[f"trained minus {name}, same split"] = cells(row)
    head = ["top-1, %; mean +- standard error", "linear probe", "kNN, k = 20"]
    seeds = len(report["seconds"])
    return markdown(head, rows) + provenance(report, f"{seeds} seeds")


def summary(name: str) -> Callable[[], str]:
    """The two probes of one set in ``protocols.json``, for docs/results.md."""

    def build() -> str:
        report = load("protocols")[name]
        results = report["results"]
        columns = {
            "trained encoder": results,
            "untrained encoder": results["random_init"],
            "raw pixels": results["pixels"],
        }
        rows = {
            label: [percent(found[p]["top1"]) for p in ("linear", "knn")]
            for label, found in columns.items()
        }
        if "description" not in results["random_init"]:  # see protocols.rows
            rows["untrained encoder"] = ["-", "-"]
        head = ["top-1, %", "linear probe", f"kNN, k = {results['knn']['k']}"]
        return markdown(head, best_in_bold_by_column(rows)) + provenance(report, "one seed")

    return build


def protocols(name: str) -> Callable[[], str]:
    """Every protocol on one set of ``protocols.json``."""

    def build() -> str:
        import protocols as benchmark  # needs matplotlib; the other tables do not

        report = load("protocols")[name]
        rows = best_in_bold(benchmark.rows(report))
        return markdown(["top-1, %", *benchmark.COLUMNS], rows) + provenance(report, "one seed")

    return build


def adaptation(shift: str) -> Callable[[], str]:
    """Domain adaptation under one shift, from both starts."""

    def build() -> str:
        found = load("adaptation")["shifts"][shift]
        rows = {}
        for key, label in ADAPTATION_ROWS.items():
            cells = []
            for start in ("source", "continued"):
                values, base = (found["starts"][start][k]["target"] for k in (key, "source"))
                gains = [value - other for value, other in zip(values, base, strict=True)]
                cells += [spread(values), "" if key == "source" else spread(gains)]
            rows[label] = cells
        head = ["top-1 on the target, %"]
        for start in ("from the source run", "continued on the target"):
            head += [start, "minus source only"]
        return markdown(head, rows) + provenance(found, f"{len(found['seeds'])} seeds")

    return build


def targets() -> str:
    """Compiled train steps on chips that are not here."""
    rows, report = {}, load("targets")
    for recipe, found in report.items():
        for target, row in found.items():
            if "failed" in row:
                sizes = re.search(r"\((.*) GiB\)", row["failed"])
                words = f"does not fit: {sizes[1]} GiB" if sizes else f"failed: {row['failed']}"
                rows[f"{recipe}, {target}"] = [str(row["batch_size"]), words, *[""] * 6]
                continue
            operations = sum(part["kernels"] for part in row["compiled"]["origins"].values())
            milliseconds = {name: 1e3 * seconds for name, seconds in row["bounds"].items()}
            rows[f"{recipe}, {target}"] = [
                str(row["batch_size"]),
                f"{row['held'] / 1e9:.2f} of {row['memory'] / 1e9:.0f}",
                *(f"{value:.1f}" for value in milliseconds.values()),
                f"{row['views_per_second'] / row['chips']:,.0f}",
                f"{operations:,.0f}",
                str(sum(row["compiled"]["collective_counts"].values())),
            ]
    head = ["recipe, target", "batch", "GB per device", "compute, ms", "memory bandwidth, ms"]
    head += ["interconnect, ms", "views/s per chip, at most", "operations", "collectives"]
    measured = [row for found in report.values() for row in found.values()]
    dates = sorted({row["date"] for row in measured})
    last = {**measured[-1], "date": " to ".join(dict.fromkeys((dates[0], dates[-1])))}
    return markdown(head, rows) + provenance(last, "compiled, run nowhere")


def series(name: str) -> Callable[[], str]:
    """TS2Vec on one set of ``series.json``, with the cross-validation that chose the setting."""

    def build() -> str:
        report = load("series")[name]
        labels = {
            "trained": f"TS2Vec, {report['chosen']}",
            "untrained": "untrained encoder",
            "raw": "raw values",
        }
        rows = {
            label: [_mean(report["results"][row], probe) for probe in ("linear", "svm", "1-NN")]
            for row, label in labels.items()
        }
        scores = {
            setting: spread([100 * score for score in found])
            for setting, found in report["cross_validation"].items()
        }
        tried = "; ".join(f"{setting} {score}" for setting, score in scores.items())
        head = [f"top-1 on the {report['test']} test series, %", "linear probe", "SVM", "1-NN"]
        chosen = f"\nCross-validation on the {report['train']} training series, SVM, %: {tried}.\n"
        seeds = f"{len(report['seeds'])} seeds, mean +- standard deviation"
        return markdown(head, rows) + chosen + provenance(report, seeds)

    return build


def _mean(found: list[dict[str, float]], probe: str) -> str:
    """Mean and standard deviation of a probe in percent, "-" where it was not run."""
    values = [100 * row[probe] for row in found if probe in row]
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "-"
    return spread(values)


ADAPTATION_ROWS = {
    "source": "source only",
    "bn": "`bn`",
    "coral": "`coral`, features, weight 10",
    "dann": "`dann`, weight 1",
    "target": "target-supervised",
    "random": "source only, from random weights",
    "pixels": "source only, on raw pixels",
}
TABLES: dict[str, Callable[[], str]] = {
    "digits": digits,
    "photos": summary("photos"),
    "cifar": summary("cifar"),
    **{f"protocols-{name}": protocols(name) for name in ("digits", "photos", "cifar")},
    **{f"series-{name}": series(name) for name in ("OSULeaf", "JapaneseVowels")},
    "targets": targets,
    "input": lambda: inputs.host(load("input")["host"]) + inputs.split(load("input")["host"]),
    "input-plain": lambda: (
        inputs.host(load("input")["host-plain"]) + inputs.split(load("input")["host-plain"])
    ),
    "input-decode": lambda: inputs.decoding(load("input")["decode"]),
    "input-parts": lambda: inputs.by_part(load("input")["parts"]),
    "step": lambda: step.steps(load("step")["steps"]),
    "convolutions": lambda: step.convolutions(load("step")["operations"]),
    **{f"adaptation-{shift}": adaptation(shift) for shift in ("pale", "inverted", "photos")},
}


if __name__ == "__main__":
    main()
