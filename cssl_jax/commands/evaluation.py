"""Commands that take a run: measure its encoder, and use it."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from cssl_jax.commands.parsing import check_parent, parse
from cssl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure a run's encoder beside the untrained one and raw pixels.

    Attributes:
        run: Run folder.
        protocol: One protocol instead of both.
    """

    run: tyro.conf.Positional[pathlib.Path]
    protocol: Literal["knn", "linear"] | None = None


@dataclasses.dataclass(frozen=True)
class EmbedData:
    """What to embed.

    Attributes:
        source: As data.source of a run: an .npz file, a folder of pictures, a .csv list, ...
        labels: As data.labels of a run.
    """

    source: str
    labels: str = "auto"


@dataclasses.dataclass(frozen=True)
class Embed:
    """Write the features of a set of pictures to an .npz file.

    Attributes:
        run: Run folder of the encoder.
        data: What to embed.
        output: File to write: features float32 [N, D] and, where there are some, labels and names.
    """

    run: tyro.conf.Positional[pathlib.Path]
    data: EmbedData
    output: pathlib.Path


def evaluate(argv: Sequence[str]) -> int:
    """`cssl-jax evaluate RUN [--protocol knn|linear]`."""
    from cssl_jax.evaluate.encoder import evaluate_run
    from cssl_jax.evaluate.protocols import table

    options = parse(Evaluate, "evaluate", argv)
    results = evaluate_run(options.run, options.protocol)
    print(f"step {results['step']} of {options.run}\n\n{table(results)}")
    return 0


def embed(argv: Sequence[str]) -> int:
    """`cssl-jax embed RUN --data.source SOURCE --output features.npz`."""
    import numpy as np

    from cssl_jax.data.loading import load_source
    from cssl_jax.evaluate.encoder import load_encoder

    options = parse(Embed, "embed", argv)
    if options.output.suffix != ".npz":
        raise UserError(f"--output {options.output} must end in .npz")
    check_parent(options.output, "--output")
    encoder = load_encoder(options.run)
    read = dataclasses.replace(encoder.config.data, labels=options.data.labels)
    source = load_source(options.data.source, read)
    arrays = {"features": encoder.embed(source)}
    arrays |= {
        name: value for name in ("labels", "names") if (value := getattr(source, name)) is not None
    }
    try:
        np.savez(options.output, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(f"cannot write {options.output}: {error.strerror}") from error
    shape = arrays["features"].shape
    also = "".join(f", {name}" for name in arrays if name != "features")
    print(f"{options.output}: features float32 [{shape[0]}, {shape[1]}]{also}")
    return 0
