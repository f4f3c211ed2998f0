"""Of a config: the run."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how large, from where.

    Attributes:
        batch_size: Global batch N, in examples, over all devices.
        micro_batch: Examples, over all devices, that are encoded at a time; 0 is all of the batch.
            The gradient is the whole batch's (GradCache, arXiv 2101.06983), the memory a
            micro-batch's; the encoder runs forward twice. For accelerators: on a CPU XLA runs
            convolutions that are in a loop some 20 to 40 times slower.
        micro_batch_norm: BatchNorm with micro_batch: "batch" takes the statistics of each
            micro-batch, as model.norm_group would, and moves the running ones by their average, and
            with "frozen" it takes the running ones and leaves them, to go on from weights (init).
        epochs: Passes over the training part.
        seed: Of initialisation, order, augmentation and, without data.split_seed, the split.
        init: Folder of an earlier run to start from: its encoder, and its projector where that has
            the same shapes; the optimizer starts anew. "" starts at random.
        log_every: Steps between two lines of metrics.jsonl.
        evaluate_every: Epochs between two online evaluations; 0 evaluates at the end only.
        checkpoint_every: Epochs between two checkpoints; 0 leaves it to the next two, and saves
            after every evaluation and at the end.
        checkpoint_steps: Steps between two checkpoints; 0 is never.
        checkpoint_minutes: Most minutes between two checkpoints, and so what a lost machine costs;
            any where it is 0.
        keep: Newest checkpoints that are kept, beside the best.
        on_nonfinite: A loss or gradient that is not finite changes no weight. Then "stop"; "skip"
            goes on with the next batch; "rollback" as well, from the weights of the last regular
            checkpoint. RUN/nonfinite tells what led there; see docs/robustness.md.
        nonfinite_limit: Most such steps in a row, and since the checkpoint gone back to.
        check_replicas_every: Steps between two checks, on several devices, that all hold the same
            weights, made before a checkpoint as well; 0 is never.
        tensorboard: Write TensorBoard events too.
        wandb: Project of Weights & Biases to log to as well; "" is none.
        record_views: Write what every view of every step underwent; see cssl_jax.load_views.
    """

    batch_size: int = 256
    micro_batch: int = 0
    micro_batch_norm: Literal["batch", "frozen"] = "batch"
    epochs: int = 100
    seed: int = 0
    init: str = ""
    log_every: int = 10
    evaluate_every: int = 10
    checkpoint_every: int = 10
    checkpoint_steps: int = 0
    checkpoint_minutes: float = 30.0
    keep: int = 2
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    nonfinite_limit: int = 10
    check_replicas_every: int = 1000
    tensorboard: bool = True
    wandb: str = ""
    record_views: bool = False
