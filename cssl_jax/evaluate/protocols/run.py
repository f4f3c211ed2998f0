"""Runs the protocols on frozen features, with or without labels."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from cssl_jax.augment.base import Policy
from cssl_jax.data.pipeline.eval_views import view_pairs
from cssl_jax.data.sources.base import ArraySource, Examples, Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate import diagnostics
from cssl_jax.evaluate.protocols.few_shot import few_shot
from cssl_jax.evaluate.protocols.knn import knn_hits, knn_scores
from cssl_jax.evaluate.protocols.linear import L2_VALUES, linear_probe
from cssl_jax.evaluate.protocols.retrieval import retrieval
from cssl_jax.evaluate.scores import Scores
from cssl_jax.modalities.base import Modality

Features = Callable[[Source], np.ndarray]  # source of N images -> float32 [N, D]
PROTOCOLS = ("knn", "linear", "few-shot", "retrieval")
SEGMENT = "segment"  # needs images with masks and runs alone; see ``segment_run``
GROUPS = "groups"  # needs groups and runs alone; see ``leave_group_out``
STS = "sts"  # needs pairs of sentences and runs alone; see ``text_similarity``
ONLINE = ("knn", "linear")  # protocols evaluated during a run and at its end


def check_names(names: tuple[str, ...]) -> None:
    """Checks the names of requested protocols.

    Raises:
        UserError: A name is unknown, or a protocol that runs alone is combined with another one.
    """
    for name in names:
        if name not in (*PROTOCOLS, SEGMENT, GROUPS, STS):
            valid = " or ".join((*PROTOCOLS, SEGMENT, GROUPS, STS))
            raise UserError(f"protocol {name!r} is unknown; use {valid}")
    if STS in names and len(names) > 1:
        raise UserError(f"protocol {STS!r} needs pairs of sentences; request it alone")
    if GROUPS in names and len(names) > 1:
        raise UserError(f"protocol {GROUPS!r} holds out groups of its own; request it alone")
    if SEGMENT in names and len(names) > 1:
        raise UserError(f"protocol {SEGMENT!r} needs images with masks; request it alone")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """Protocols on labelled features, and their settings.

    Attributes:
        protocols: Names of protocols in ``PROTOCOLS``.
        knn_k: Number of neighbours that vote.
        knn_temperature: Temperature of the kNN vote.
        seed: Seed of the fraction of the training images on which the linear probe's penalty is
            chosen, and of the few-shot draws.
        knn_ks: Additional numbers of neighbours; empty: only ``knn_k``.
        l2_values: Penalties that the linear probe chooses from.
        probe_seeds: Number of held-out fractions of the training images on which the penalty is
            chosen.
        shots: Numbers of labels per class for the few-shot probe.
        draws: Number of random label draws per shot count.
        recall_at: Values of k for retrieval's recall@k.
    """

    protocols: tuple[str, ...]
    knn_k: int
    knn_temperature: float
    seed: int
    knn_ks: Sequence[int] = ()
    l2_values: Sequence[float] = L2_VALUES
    probe_seeds: int = 1
    shots: Sequence[int] = (1, 5, 10)
    draws: int = 100
    recall_at: Sequence[int] = (1, 5, 10)


def labelled(
    features: Features,
    train: Source,
    validation: Source,
    options: ProtocolOptions,
    *,
    selection: np.ndarray | None = None,
) -> Scores:
    """Runs protocols on frozen features: fitted on ``train``, evaluated on ``validation``.

    Args:
        features: Function from a source of N images to features float32 [N, D].
        train: Labelled images: kNN bank, training set of the probes, and retrieval gallery.
        validation: Labelled images that are evaluated. They choose no setting of a protocol.
        options: Protocols to run, and their settings.
        selection: Rows int [r] of ``validation`` that rank checkpoints; None: none do.

    Returns:
        Metrics of the requested protocols, as fractions in [0, 1]. ``knn`` has ``by_k`` if
        ``options.knn_ks`` is not empty, and ``selection_top1``, the top-1 accuracy on
        ``selection``, if it is given.

    Raises:
        UserError: A protocol is unknown, or the features or settings are invalid.
    """
    check_names(options.protocols)
    assert train.labels is not None
    assert validation.labels is not None
    classes = max(train.num_classes, validation.num_classes)
    # Every protocol takes these four arrays in this order.
    arrays = features(train), train.labels, features(validation), validation.labels
    scores = Scores()
    if "knn" in options.protocols:
        ks = (options.knn_k, *options.knn_ks)
        hits = knn_hits(*arrays, num_classes=classes, ks=ks, temperature=options.knn_temperature)
        k = min(options.knn_k, len(train))
        knn = knn_scores(hits, k, several=bool(options.knn_ks))
        if selection is not None:
            knn = dataclasses.replace(knn, selection_top1=float(np.mean(hits[k][0, selection])))
        scores = dataclasses.replace(scores, knn=knn)
    if "linear" in options.protocols:
        linear = linear_probe(
            *arrays,
            num_classes=classes,
            l2_values=tuple(options.l2_values),
            seed=options.seed,
            seeds=options.probe_seeds,
        )
        scores = dataclasses.replace(scores, linear=linear)
    if "few-shot" in options.protocols:
        few = few_shot(
            *arrays,
            num_classes=classes,
            shots=options.shots,
            draws=options.draws,
            seed=options.seed,
        )
        scores = dataclasses.replace(scores, few_shot=few)
    if "retrieval" in options.protocols:
        retrieved = retrieval(*arrays, num_classes=classes, recall_at=options.recall_at)
        scores = dataclasses.replace(scores, retrieval=retrieved)
    return scores


def embed_pairs(features: Features, blocks: Iterable[Examples]) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] of the first and of the second view of N examples.

    Args:
        features: Function from a source of n examples to features float32 [n, D].
        blocks: Views as examples, trees of arrays [n, 2, ...]; see ``view_pairs``.
    """
    found = [
        [
            features(ArraySource("views", jax.tree.map(lambda x, v=view: x[:, v], views)))
            for view in range(2)
        ]
        for views in blocks
    ]
    first, second = (np.concatenate(views) for views in zip(*found, strict=True))
    return first, second


def unlabelled(
    features: Features,
    validation: Source,
    policy: Policy,
    *,
    size: int,
    seed: int,
    modality: Modality,
    selection: np.ndarray | None = None,
) -> Scores:
    """Label-free metrics on two views per held-out image.

    Args:
        features: Function from a source of N images to features float32 [N, D].
        validation: Images that were not used for training; their labels are not read.
        policy: Augmentation policy that draws the views, the one of the training.
        size: Size of the views, such as the side of an image in pixels.
        seed: Seed of the views.
        modality: Modality of the examples.
        selection: Rows int [r] of ``validation`` that rank checkpoints; None: none do.

    Returns:
        ``view_retrieval``, a fraction in [0, 1], ``alignment``, ``uniformity`` and ``rankme``, see
        ``diagnostics``. With ``selection`` also ``selection_view_retrieval``.
    """
    blocks = view_pairs(validation, policy, size=size, seed=seed, modality=modality)
    z1, z2 = embed_pairs(features, blocks)
    selected = None
    if selection is not None:
        # Computed among the selected rows only, so that the reporting half has no influence.
        selected = float(diagnostics.view_retrieval(z1[selection], z2[selection]))
    return Scores(
        view_retrieval=float(diagnostics.view_retrieval(z1, z2)),
        alignment=float(diagnostics.alignment(z1, z2)),
        uniformity=float(diagnostics.uniformity(z1)),
        rankme=float(diagnostics.rankme(z1)),
        selection_view_retrieval=selected,
    )
