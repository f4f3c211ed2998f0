"""Config section evaluate: how features are evaluated."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How features are evaluated.

    Attributes:
        knn_k: Number of neighbours that vote in kNN.
        knn_ks: Further numbers of neighbours, reported after a run from the same search.
        knn_temperature: Temperature of the kNN vote's weights exp(similarity / temperature).
        batch_size: Number of images embedded at once.
        train_limit: Maximum number of training images that probes use, a seeded subset; 0 uses all.
        l2_values: Penalties that the linear probe chooses from; empty: the SimCLR paper's 45.
        online_l2_values: Penalties of the probe in evaluations during a run; few, for speed.
        probe_seeds: Number of held-out splits that the penalty is chosen on after a run; reported
            accuracies are their means.
        shots: Numbers of labels per class in the few-shot protocol.
        draws: Number of random label draws per shot count.
        recall_at: Values of k for retrieval's recall@k.
        segment_pixels: Approximate number of pixels, over all training masks, that the segment
            probe is fitted on.
        segment_stages: Encoder stages, counted from 1, whose maps the segment probe uses; empty:
            all.
        blocks: Number of last blocks of a Vision Transformer whose class tokens are the features,
            side by side; DINO evaluates ViT-S with 4.
        patch_mean: True to add the mean of a Vision Transformer's patches to the features, as DINO
            does with ViT-B.
    """

    knn_k: int = 200
    knn_temperature: float = 0.1
    batch_size: int = 256
    train_limit: int = 0
    knn_ks: tuple[int, ...] = (1, 5, 10, 20, 50, 100, 200)
    l2_values: tuple[float, ...] = ()
    online_l2_values: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    probe_seeds: int = 3
    shots: tuple[int, ...] = (1, 5, 10)
    draws: int = 100
    recall_at: tuple[int, ...] = (1, 5, 10)
    segment_pixels: int = 20_000
    segment_stages: tuple[int, ...] = ()
    blocks: int = 1
    patch_mean: bool = False
