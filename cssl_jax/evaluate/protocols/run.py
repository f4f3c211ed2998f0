"""Every protocol on frozen features, with labels and without."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.data.pipeline.eval_views import view_pairs
from cssl_jax.data.sources.base import ArraySource, Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate import diagnostics
from cssl_jax.evaluate.protocols.few_shot import few_shot
from cssl_jax.evaluate.protocols.knn import knn_hits, shares
from cssl_jax.evaluate.protocols.linear import L2_VALUES, linear_probe
from cssl_jax.evaluate.protocols.retrieval import retrieval

Features = Callable[[Source], np.ndarray]
PROTOCOLS = ("knn", "linear", "few-shot", "retrieval")
SEGMENT = "segment"  # on images with masks, by itself; see ``segment_run``
ONLINE = ("knn", "linear")  # during a run and at its end


def check_names(names: tuple[str, ...]) -> None:
    """Raises UserError at the first name that is no protocol."""
    for name in names:
        if name not in (*PROTOCOLS, SEGMENT):
            known = " or ".join((*PROTOCOLS, SEGMENT))
            raise UserError(f"protocol {name!r} is unknown; use {known}")
    if SEGMENT in names and len(names) > 1:
        raise UserError(f"protocol {SEGMENT!r} is for images with masks; ask for it by itself")


def labelled(
    features: Features,
    train: Source,
    validation: Source,
    *,
    protocols: tuple[str, ...],
    knn_k: int,
    knn_temperature: float,
    seed: int,
    knn_ks: Sequence[int] = (),
    l2_values: Sequence[float] = L2_VALUES,
    probe_seeds: int = 1,
    shots: Sequence[int] = (1, 5, 10),
    draws: int = 100,
    recall_at: Sequence[int] = (1, 5, 10),
    selection: np.ndarray | None = None,
) -> dict[str, Any]:
    """Runs protocols on frozen features: fitted on ``train``, reported on ``validation``.

    Args:
        features: Source of N images -> float32 [N, D].
        train: Labelled bank of the kNN, training set of the probes, and gallery.
        validation: Labelled; chooses no setting of a protocol.
        protocols: Of ``PROTOCOLS``.
        knn_k: Neighbours that vote.
        knn_temperature: Of the vote.
        seed: Of the probe's held-out part of ``train``, on which its regularisation is chosen, and
            of the few-shot draws.
        knn_ks: Further numbers of neighbours.
        l2_values: Penalties that the probe chooses from.
        probe_seeds: Held-out parts that it chooses on, one after the other.
        shots: Labels a class, of few-shot.
        draws: Of them.
        recall_at: ks of retrieval's recall.
        selection: int [r], validation rows by which checkpoints are ranked.

    Returns:
        {"knn": {"top1", "top5", "k"}, "linear": as ``linear_probe``, "few_shot": as ``few_shot``,
        "retrieval": as ``retrieval``}, shares in [0, 1]; of kNN also "by_k" with ``knn_ks``, and
        "selection_top1", its top-1 on the rows of ``selection``.
    """
    check_names(protocols)
    assert train.labels is not None
    assert validation.labels is not None
    classes = max(train.num_classes, validation.num_classes)
    # In the order that every protocol takes them.
    parts = features(train), train.labels, features(validation), validation.labels
    results: dict[str, Any] = {}
    if "knn" in protocols:
        ks = (knn_k, *knn_ks)
        hits = knn_hits(*parts, num_classes=classes, ks=ks, temperature=knn_temperature)
        k = min(knn_k, len(train))
        results["knn"] = {**shares(hits[k]), "k": k}
        if knn_ks:
            results["knn"]["by_k"] = {str(number): shares(hits[number]) for number in sorted(hits)}
        if selection is not None:
            results["knn"]["selection_top1"] = float(np.mean(hits[k][0, selection]))
    if "linear" in protocols:
        results["linear"] = linear_probe(
            *parts, num_classes=classes, l2_values=tuple(l2_values), seed=seed, seeds=probe_seeds
        )
    if "few-shot" in protocols:
        results["few_shot"] = few_shot(
            *parts, num_classes=classes, shots=shots, draws=draws, seed=seed
        )
    if "retrieval" in protocols:
        results["retrieval"] = retrieval(*parts, num_classes=classes, recall_at=recall_at)
    return results


def unlabelled(
    features: Features,
    validation: Source,
    policy: ImagePolicy,
    *,
    size: int,
    seed: int,
    selection: np.ndarray | None = None,
) -> dict[str, float]:
    """Label-free figures on two held-out views an image.

    Args:
        features: Source of N images -> float32 [N, D].
        validation: Images that were not trained on.
        policy: Draws the views, as in training.
        size: Of the views.
        seed: Of the draws.
        selection: int [r], rows by which checkpoints are ranked.

    Returns:
        {"view_retrieval": share in [0, 1], "alignment", "uniformity", "rankme"}; with
        ``selection``, "selection_view_retrieval" among its rows.
    """
    parts = [
        [features(ArraySource("views", views[:, v])) for v in range(2)]
        for views in view_pairs(validation, policy, size=size, seed=seed)
    ]
    z1, z2 = (np.concatenate(views) for views in zip(*parts, strict=True))
    figures = {
        "view_retrieval": float(diagnostics.view_retrieval(z1, z2)),
        "alignment": float(diagnostics.alignment(z1, z2)),
        "uniformity": float(diagnostics.uniformity(z1)),
        "rankme": float(diagnostics.rankme(z1)),
    }
    if selection is not None:
        chosen = diagnostics.view_retrieval(z1[selection], z2[selection])
        figures["selection_view_retrieval"] = float(chosen)
    return figures
