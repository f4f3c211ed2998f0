"""Commands `evaluate` and `embed`: measure and use the encoder of a run."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from cssl_jax.cli.parsing import File, OptionalFile, Run, parse, run_first
from cssl_jax.config import Config, DataConfig, EvaluateConfig
from cssl_jax.config.images import ImageOptions
from cssl_jax.outputs import check_output, open_output, stdout_kept_for, write_json_output
from cssl_jax.recipes import validate

REJECTED_SHOWN = 20  # omitted images that are printed; the file holds all
Protocol = Literal["knn", "linear", "few-shot", "retrieval", "segment"]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate a run's encoder, the untrained one and raw pixels, on the run's or on other data.

    Attributes:
        run: Run folder; its config has the defaults of all other options.
        protocol: Evaluation protocols; segment takes images with masks. See docs/evaluation.md.
        json: File for all metrics (- is standard output); results.json of a finished run has them
            in any case.
        data: Labelled images to fit on and to report on.
        evaluate: Settings of the protocols.
    """

    run: Run
    protocol: Annotated[
        tuple[Protocol, ...], tyro.conf.arg(help_behavior_hint="(default: all that take labels)")
    ] = ()
    json: OptionalFile = None
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedData(ImageOptions):
    """Images to embed; they are read as in the run unless an option says otherwise.

    Attributes:
        source: Images, given as data.source of a run: an .npz file, a folder, a .csv list, ...
    """

    source: str


@dataclasses.dataclass(frozen=True)
class Embed:
    """Write the features of a set of images to an .npz file.

    Attributes:
        run: Run folder of the encoder.
        data: Images to embed.
        output: File to write (.npz; - is standard output): features float32 [N, D] and, where there
            are some, labels, names, classes (names of the labels), and rejected: name and reason of
            each image that is omitted.
        batch_size: Number of images embedded at once; 0 uses the run's evaluate.batch_size.
    """

    run: Run
    data: EmbedData
    output: File
    batch_size: int = 0


def evaluate(argv: Sequence[str]) -> int:
    """`cssl-jax evaluate RUN [--protocol NAME ...] [--data.source SOURCE] [--json FILE]`."""
    from cssl_jax import recipes
    from cssl_jax.evaluate.run import evaluate_run
    from cssl_jax.report.results_table import format_results
    from cssl_jax.runtime import multihost

    run = run_first("evaluate", "", argv)
    own = recipes.read_json(run / "config.json") if run else Config()
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
        split = results["split"]
        print(
            f"step {results['step']} of {options.run}, fitted on {split['train']:,} images of "
            f"{results['source']}, reported on {split['validation']:,} "
            f"({results['validation_source']})\n"
            + "".join(f"note: {note}\n" for note in results.get("notes", ()))
            + f"\n{format_results(results)}"
        )
    if options.json:
        write_json_output(options.json, results)
    return 0


def embed(argv: Sequence[str]) -> int:
    """`cssl-jax embed RUN --data.source SOURCE --output features.npz`."""
    import numpy as np

    from cssl_jax import recipes
    from cssl_jax.data.sources.open import load_source
    from cssl_jax.evaluate.load import load_encoder
    from cssl_jax.runtime import multihost

    named = pathlib.Path(argv[0] if argv else "").expanduser() / "config.json"
    own = recipes.read_json(named).data if named.is_file() else ImageOptions()
    read = {field.name: getattr(own, field.name) for field in dataclasses.fields(ImageOptions)}
    # The labels and the memory of the run's data are no property of other data.
    data = EmbedData(source=tyro.MISSING, **{**read, "labels": "auto", "in_memory": None})
    options = parse(Embed, "embed", argv, Embed(tyro.MISSING, data, tyro.MISSING))
    check_output(options.output, ".npz")
    encoder = load_encoder(options.run, batch_size=options.batch_size)
    validate(Config(data=DataConfig(**dataclasses.asdict(options.data))))
    source = load_source(options.data.source, options.data)
    arrays = {"features": encoder.embed(source)}
    if not multihost.is_primary():
        return 0
    arrays |= {
        name: value for name in ("labels", "names") if (value := getattr(source, name)) is not None
    }
    rejected = [(name, reason) for name, reason, _ in source.rejected]
    if rejected:
        arrays["rejected"] = np.array(rejected, str)
    if source.labels is not None and source.classes:
        arrays["classes"] = np.array(source.classes, str)
    with open_output(options.output) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    shape = arrays["features"].shape
    also = "".join(f", {name}" for name in arrays if name != "features")
    with stdout_kept_for(options.output):
        print(f"{options.output}: features float32 [{shape[0]}, {shape[1]}]{also}")
        if rejected:
            print(f"{len(rejected)} of {len(rejected) + len(source)} images omitted:")
            shown = [f"  {name}: {reason}" for name, reason in rejected[:REJECTED_SHOWN]]
            hidden = len(rejected) - len(shown)
            print("\n".join(shown + ([f"  ... and {hidden} more"] if hidden else [])))
    return 0
