"""What a run's results are: every protocol, beside the untrained encoder and raw pixels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cssl_jax.augment.policy import ImagePolicy
from cssl_jax.data.sources import ArraySource, Source
from cssl_jax.data.views import view_pairs
from cssl_jax.errors import UserError
from cssl_jax.evaluate import diagnostics
from cssl_jax.evaluate.knn import knn
from cssl_jax.evaluate.linear import linear_probe

Features = Callable[[Source], np.ndarray]
PROTOCOLS = ("knn", "linear")


def check_names(names: tuple[str, ...]) -> None:
    """Raises UserError at the first name that is no protocol."""
    for name in names:
        if name not in PROTOCOLS:
            raise UserError(f"protocol {name!r} is unknown; use {' or '.join(PROTOCOLS)}")


def labelled(
    features: Features,
    train: Source,
    validation: Source,
    *,
    protocols: tuple[str, ...],
    knn_k: int,
    knn_temperature: float,
    seed: int,
) -> dict[str, Any]:
    """Runs protocols on frozen features: fitted on ``train``, reported on ``validation``.

    Args:
        features: Source of N images -> float32 [N, D].
        train: Labelled bank of the kNN and training set of the probe.
        validation: Labelled, never used to choose anything.
        protocols: Of ``PROTOCOLS``.
        knn_k: Neighbours that vote.
        knn_temperature: Of the vote.
        seed: Of the probe's held-out part of ``train``, on which its regularisation is chosen.

    Returns:
        {"knn": {"top1", "top5", "k"}, "linear": {"top1", "top5", "l2"}}, shares in [0, 1].
    """
    check_names(protocols)
    assert train.labels is not None
    assert validation.labels is not None
    classes = max(train.num_classes, validation.num_classes)
    bank, queries = features(train), features(validation)
    results: dict[str, Any] = {}
    if "knn" in protocols:
        results["knn"] = {
            **knn(
                bank,
                train.labels,
                queries,
                validation.labels,
                num_classes=classes,
                k=knn_k,
                temperature=knn_temperature,
            ),
            "k": min(knn_k, len(bank)),
        }
    if "linear" in protocols:
        results["linear"] = linear_probe(
            bank, train.labels, queries, validation.labels, num_classes=classes, seed=seed
        )
    return results


def unlabelled(
    features: Features, validation: Source, policy: ImagePolicy, *, size: int, seed: int
) -> dict[str, float]:
    """Label-free figures on two held-out views an image.

    Args:
        features: Source of N images -> float32 [N, D].
        validation: Images that were not trained on.
        policy: Draws the views, as in training.
        size: Of the views.
        seed: Of the draws.

    Returns:
        {"view_retrieval": share in [0, 1], "alignment", "uniformity", "rankme"}.
    """
    parts = [
        [features(ArraySource("views", views[:, v])) for v in range(2)]
        for views in view_pairs(validation, policy, size=size, seed=seed)
    ]
    z1, z2 = (np.concatenate(views) for views in zip(*parts, strict=True))
    return {
        "view_retrieval": float(diagnostics.view_retrieval(z1, z2)),
        "alignment": float(diagnostics.alignment(z1, z2)),
        "uniformity": float(diagnostics.uniformity(z1)),
        "rankme": float(diagnostics.rankme(z1)),
    }


def table(results: dict[str, Any]) -> str:
    """The figures that a person compares, as plain text."""
    rows = [
        ("trained encoder", results),
        ("untrained encoder", results["random_init"]),
        ("raw pixels", results["pixels"]),
    ]
    names = [name for name in ("linear", "knn") if name in results]
    if names:
        columns = [(f"{name} {top}", name, top) for name in names for top in ("top1", "top5")]
        cells = [[f"{100 * row[name][top]:.1f} %" for _, name, top in columns] for _, row in rows]
        heads = [title.replace("top", "top-") for title, _, _ in columns]
    else:
        heads = ["view_retrieval", "alignment", "uniformity", "rankme"]
        cells = [[f"{row[name]:.3f}" for name in heads] for _, row in rows]
    lines = [" " * 20 + "".join(f"{head:>16}" for head in heads)]
    lines += [
        f"{label:<20}" + "".join(f"{cell:>16}" for cell in row)
        for (label, _), row in zip(rows, cells, strict=True)
    ]
    return "\n".join(lines)
