"""A report as Markdown, for terminals, pull requests and language models."""

import datetime
from collections.abc import Sequence

from cssl_jax.report import tables as report_tables
from cssl_jax.report.escape import one_line, plain, printable
from cssl_jax.report.figures.curves import charts
from cssl_jax.report.figures.svg import describe
from cssl_jax.report.run_reader import RunFolder
from cssl_jax.report.table import to_markdown


def markdown(
    runs: Sequence[RunFolder],
    *,
    notes: Sequence[Sequence[str]],
    environments: Sequence[dict[str, str]],
    figures: dict[str, str],
) -> str:
    """The report of runs as Markdown.

    Args:
        runs: Logs and results per run, at least one.
        notes: Reasons for missing content, per run.
        environments: Machine and package versions per run; empty for a run without a checkpoint.
        figures: Title of each PNG figure to its path relative to the Markdown file.
    """
    lines = [f"# {', '.join(plain(run.name) for run in runs)}", "", date(), ""]
    for run, run_notes in zip(runs, notes, strict=True):
        lines += [
            f"## {plain(run.name)}",
            "",
            f"{run.state}. {report_tables.speed(run)}".strip(),
            "",
        ]
        lines += [f"- **{verdict.grade}** {plain(str(verdict))}" for verdict in run.verdicts]
        lines += [f"- not shown: {plain(note)}" for note in run_notes]
        command = one_line(report_tables.repeat_command(run))
        lines += ["", "Command that repeats the run:", "", f"    {command}", ""]
    if results := report_tables.encoder_tables(runs):
        lines += ["## Results", ""]
        for found in results:
            lines += [*to_markdown(found), ""]
    sections = {
        "Diagnostics": report_tables.diagnostics_table(runs),
        "Config": report_tables.config_table(runs),
        "Environment": report_tables.environment_table(runs, environments),
    }
    for title, table in sections.items():
        if table is not None and table.rows:
            lines += [f"## {title}", "", *to_markdown(table), ""]
    lines += ["## Curves", ""]
    lines += [f"- {chart.title}: {plain(describe(chart))}" for chart in charts(runs)]
    lines += [""]
    for title, path in figures.items():
        lines += [f"## {plain(title)}", "", f"![{plain(title)}]({link(path)})", ""]
    return "\n".join(lines).rstrip() + "\n"


def link(path: str) -> str:
    """A relative path as the target of a Markdown link."""
    return "<" + printable(path).replace("<", "%3C").replace(">", "%3E") + ">"


def date() -> str:
    """The current date and time as a sentence."""
    return datetime.datetime.now().astimezone().strftime("Created on %Y-%m-%d at %H:%M %Z.")
