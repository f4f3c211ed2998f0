"""Of a config: how the encoder is judged."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How features are judged.

    Attributes:
        knn_k: Neighbours that vote.
        knn_ks: Further numbers of neighbours, from the same search; after a run.
        knn_temperature: Of the vote.
        batch_size: Images embedded at once.
        train_limit: Training images that probes see at most, a keyed part; 0 is all.
        l2_values: Penalties that the linear probe chooses from; none are the SimCLR paper's 45.
        online_l2_values: Those of the evaluations during a run, few for speed.
        probe_seeds: Held-out parts that the penalty is chosen on, after a run; figures are means.
        shots: Labels a class, of the few-shot protocol.
        draws: Of them.
        recall_at: The ks of retrieval's recall@k.
        segment_pixels: Pixels of all training masks, about, that the segment probe is fitted on.
        segment_stages: Of the encoder, from 1, whose maps it sees; none is all.
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
