"""Command `plot`: one plot of a run."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from cssl_jax.cli.parsing import File, Run, parse
from cssl_jax.outputs import check_output, stdout_kept_for, write_png


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw one plot of a run.

    Attributes:
        run: Run folder; it may still be training.
        output: File to write (.png); - is standard output.
        kind: Kind of plot: curves of the training run; a map of the features by pca, tsne or umap;
            confusion of classes; nearest neighbours; augmented views.
        images: Maximum number of validation images to embed.
    """

    run: Run
    output: File
    kind: Literal["curves", "pca", "tsne", "umap", "confusion", "neighbours", "views"] = "tsne"
    images: int = 10_000


def run(argv: Sequence[str]) -> int:
    """`cssl-jax plot RUN --kind tsne --output tsne.png`."""
    from cssl_jax.report.figures.plots import draw

    options = parse(Plot, "plot", argv)
    check_output(options.output, ".png")
    plot = draw(options.run, options.kind, images=options.images)
    write_png(options.output, plot)
    with stdout_kept_for(options.output):
        print(f"{options.output}: {options.kind}, {plot.width} x {plot.height} px")
    return 0
