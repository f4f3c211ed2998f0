"""Command `report`: one page on runs, on a sweep, on fine-tuning or on domain adaptation."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.cli.parsing import OptionalFile, parse
from cssl_jax.errors import UserError
from cssl_jax.outputs import is_stream, stdout_kept_for


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one page on runs or on a sweep: verdict, curves, tables, maps, views.

    The page is one file that opens without a network. Markdown and the plots as PNG are written
    beside it. A run may still be training.

    Attributes:
        runs: Run folders to compare, or the folder of one sweep, finetune or adapt.
        output: File to write (.html); - is standard output. By default report.html: in the folder
            of a single run, in the current folder for several runs.
        images: Maximum number of validation images to embed; 0 omits maps and galleries.
        figures: Write the plots as PNG as well.
    """

    runs: tyro.conf.Positional[
        Annotated[
            tuple[pathlib.Path, ...],
            tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
        ]
    ]
    output: OptionalFile = None
    images: int = 10_000
    figures: bool = True


def run(argv: Sequence[str]) -> int:
    """`cssl-jax report RUN [RUN ...] [--output report.html]`."""
    from cssl_jax.report.run_reader import open_run
    from cssl_jax.report.write import write_report
    from cssl_jax.sweeps import sweep_results
    from cssl_jax.transfer import transfer_report

    options = parse(Report, "report", argv)
    if sweeps := [folder for folder in options.runs if sweep_results.is_sweep(folder)]:
        return _report_sweep(options, sweeps[0])
    if found := [folder for folder in options.runs if transfer_report.has_results(folder)]:
        return _report_transfer(options, found[0])
    path = write_report(
        options.runs, options.output, images=options.images, figures=options.figures, say=_say
    )
    with stdout_kept_for(path):
        for run in options.runs:
            opened = open_run(run)
            print(f"{opened.name}: {opened.state}")
            for verdict in opened.verdicts:
                print(f"  {verdict.grade:<8} {verdict}")
        if not is_stream(path):
            print(f"\n{path} ({path.stat().st_size / 1e6:.1f} MB), {path.with_suffix('.md')}")
    return 0


def _report_sweep(options: Report, folder: pathlib.Path) -> int:
    from cssl_jax.sweeps import sweep_results
    from cssl_jax.sweeps.sweep_report import write_report

    if len(options.runs) > 1:
        raise UserError(f"{folder} is a sweep; a sweep has a report of its own: name it alone")
    path = write_report(folder, options.output, figures=options.figures)
    with stdout_kept_for(path):
        print("\n".join(sweep_results.read(folder).summary))
        if not is_stream(path):
            print(f"\n{path}, {path.with_suffix('.md')}")
    return 0


def _report_transfer(options: Report, folder: pathlib.Path) -> int:
    from cssl_jax.transfer.transfer_report import read_results, write_transfer_report
    from cssl_jax.transfer.transfer_tables import format_results

    if len(options.runs) > 1:
        raise UserError(f"{folder} has a report of its own: name it alone")
    path = write_transfer_report(folder, options.output)
    with stdout_kept_for(path):
        print("\n\n".join(map(format_results, read_results(folder).values())))
        if not is_stream(path):
            print(f"\n{path}, {path.with_suffix('.md')}")
    return 0


def _say(text: str) -> None:
    print(f"  {text} ...", file=sys.stderr, flush=True)
