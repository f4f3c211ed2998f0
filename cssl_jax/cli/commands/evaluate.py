"""Command `evaluate`: quality of a run's encoder."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from cssl_jax.cli.parsing import OptionalFile, Run, parse, run_first
from cssl_jax.config import Config, DataConfig, EvaluateConfig, ImageData
from cssl_jax.outputs import check_output, stdout_kept_for, write_json_output

Protocol = Literal["knn", "linear", "few-shot", "retrieval", "segment", "groups", "sts"]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate a run's encoder, the untrained one and raw pixels, on the run's or on other data.

    Attributes:
        run: Run folder; its config gives the defaults of the other options.
        protocol: Evaluation protocols to run, see docs/evaluation.md; segment takes images with
            masks, groups takes examples with groups, sts takes pairs of sentences.
        json: File (.json) for all metrics; - is standard output.
        data: Labelled images to fit on and to report on.
        evaluate: Settings of the protocols.
    """

    run: Run
    protocol: Annotated[
        tuple[Protocol, ...], tyro.conf.arg(help_behavior_hint="(default: all that take labels)")
    ] = ()
    json: OptionalFile = None
    data: DataConfig = dataclasses.field(default_factory=ImageData)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)


def run(argv: Sequence[str]) -> int:
    """`cssl-jax evaluate RUN [--protocol NAME ...] [--data.source SOURCE] [--json FILE]`."""
    from cssl_jax import recipes
    from cssl_jax.evaluate.run import evaluate_run
    from cssl_jax.modalities.registry import modality_entry
    from cssl_jax.report.results_table import format_results
    from cssl_jax.runtime import multihost

    folder = run_first("evaluate", "", argv)
    own = recipes.read_json(folder / "config.json") if folder else Config()
    default = Evaluate(tyro.MISSING, data=own.data, evaluate=own.evaluate)
    options = parse(Evaluate, "evaluate", argv, default)
    if options.json:
        check_output(options.json, option="--json")
    with stdout_kept_for(options.json):
        results = evaluate_run(
            options.run, options.protocol or None, data=options.data, options=options.evaluate
        )
        if not multihost.is_primary():
            return 0
        split, noun = results.split, modality_entry(options.data.modality).noun
        assert split is not None
        on = f"fitted on {split.train:,} {noun} of {results.source}, reported on "
        if results.sts is not None:
            on = f"TF-IDF fitted on {split.train:,} {noun} of the run, reported on "
        print(
            f"step {results.step} of {options.run}, {on}"
            f"{split.validation:,} ({results.validation_source})\n"
            + "".join(f"note: {note}\n" for note in results.notes or ())
            + f"\n{format_results(results)}"
        )
    if options.json:
        write_json_output(options.json, results.to_json())
    return 0
