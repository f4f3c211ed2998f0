"""Config section train: length, batch size, initial weights, checkpoints, logs."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch size, initial weights, checkpoints and logs of a run.

    Attributes:
        batch_size: Global batch size N in examples, over all devices.
        micro_batch: Number of examples, over all devices, that are encoded at a time; 0 encodes the
            whole batch at once. The gradient is that of the whole batch (GradCache,
            arXiv 2101.06983), the memory that of a micro-batch, and the encoder runs forward twice.
            Meant for accelerators: on a CPU, XLA runs convolutions in a loop 20 to 40 times slower.
        micro_batch_norm: BatchNorm statistics with micro_batch: "batch" uses those of each
            micro-batch, as model.norm_group would, and updates the running ones by their average.
            With "frozen" the running ones are used unchanged, to continue from trained weights
            given by init.
        epochs: Number of passes over the training images.
        seed: Seed of initialisation, order and augmentation, and of the split into training and
            validation images unless data.split_seed is given.
        init: Folder of an earlier run to take weights from: its encoder, and its projector if that
            has the same shapes; the optimizer starts from scratch. "" starts from random weights.
        log_every: Number of steps between two lines of metrics.jsonl.
        evaluate_every: Number of epochs between two online evaluations; 0 evaluates at the end
            only.
        checkpoint_every: Number of epochs between two checkpoints; 0 uses checkpoint_steps and
            checkpoint_minutes only. Every evaluation and the end of the run save as well.
        checkpoint_steps: Number of steps between two checkpoints; 0: no interval in steps.
        checkpoint_minutes: Maximum number of minutes between two checkpoints, which bounds what a
            lost machine costs; 0: no limit.
        keep: Number of newest checkpoints that are kept, in addition to the best.
        on_nonfinite: What to do after a step with a non-finite loss or gradient, which changes no
            weight: "stop"; "skip" continues with the next batch; "rollback" continues with the next
            batch from the weights of the last regular checkpoint. RUN/nonfinite records what led to
            it; see docs/robustness.md.
        nonfinite_limit: Maximum number of non-finite steps in a row, or since the checkpoint that
            was restored; the run stops above it.
        check_replicas_every: Number of steps between two checks that all devices hold the same
            weights, also made before every checkpoint; 0 disables them.
        tensorboard: Write TensorBoard events in addition to metrics.jsonl.
        wandb: Project of Weights & Biases to log to; "" disables it.
        record_views: Write the augmentation parameters of every view of every step; see
            cssl_jax.load_views.
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
