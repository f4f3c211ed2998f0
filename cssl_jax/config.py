"""The typed truth about a run: frozen dataclasses and what makes their values valid."""

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Literal

from cssl_jax.augment.policy import PROBABILITIES, ImagePolicy
from cssl_jax.data.options import PictureOptions
from cssl_jax.errors import UserError

# Least steps of a fine-tuning: the SimCLR paper's shortest, 60 epochs of 1 % of ImageNet's labels
# in batches of 4,096 (arXiv 2002.05709, App. B.5).
FINETUNE_STEPS = 180


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(PictureOptions):
    """Where examples come from.

    Attributes:
        source: Pictures of any size: a folder, a .csv list (path, label), "tfds:NAME@SPLIT",
            a .parquet file, or "wds:SHARDS.tar"; an .npz file with images (uint8 [N, H, W, C]) and,
            optional, labels (int [N]); or "digits" (embedded).
        validation_source: A source of its own to validate on; "" holds out a part of the source.
        validation_fraction: Share of the source that is held out, without validation_source.
        split_seed: Of the split; None follows train.seed.
        size: Side of a view in pixels; 0 is the height of the source's images.
        normalize: "dataset" computes mean and standard deviation a channel on the training part,
            and "unit" leaves values in [0, 1], as the SimCLR code does.
        mean: Mean a channel on the scale [0, 1]; given, it replaces the computed one.
        std: Standard deviation a channel; given with mean.
        augment_on: "device" (JAX, in the compiled step), "host", "split" (crop and resize on the
            host, the rest on the device), or "auto" (device for arrays, split for pictures).
        resident: Keep the images on the devices: all on each (True), a part on each ("split", each
            step fetches its rows over the network), or none; None decides by size.
        engine: Of the host: "tf" (tf.data), "threads" (no TensorFlow), or "auto" (tf where it is
            installed).
    """

    source: str = "digits"
    validation_source: str = ""
    validation_fraction: float = 0.2
    split_seed: int | None = None
    size: int = 0
    normalize: Literal["dataset", "unit"] = "dataset"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augment_on: Literal["auto", "device", "host", "split"] = "auto"
    resident: bool | Literal["split"] | None = None
    engine: Literal["auto", "tf", "threads"] = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Encoder and projection head.

    Attributes:
        encoder: Name of the encoder: resnet10, 14, 18, 34, 50, 101, 152 or 200.
        width: Multiplier of every channel count.
        stem: "imagenet" (7x7 stride 2 and max-pool) or "cifar" (3x3 stride 1).
        norm_group: Images that share BatchNorm statistics; 0 is the global batch, or the
            micro-batch (train.micro_batch).
        remat: Recompute activations in the backward pass: less memory, a second forward. XLA undoes
            it on a CPU.
        dtype: Compute precision; parameters, statistics and losses stay float32.
        projector_layers: 1 to 3 (the paper 2, SimCLRv2 3).
        projector_hidden: Width of the hidden layers; 0 is the feature width.
        projector_dim: Width of the projections.
        projector_norm: BatchNorm in the projection head, as in the paper's code.
    """

    encoder: str = "resnet50"
    width: float = 1.0
    stem: Literal["imagenet", "cifar"] = "imagenet"
    norm_group: int = 0
    remat: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    projector_layers: int = 2
    projector_hidden: int = 0
    projector_dim: int = 128
    projector_norm: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The objective.

    Attributes:
        name: "simclr"; "classifier" (fine-tuning, see classifier.*); or "coral" and "dann", a
            classifier that is adapted to another domain (see adapt.*).
        temperature: tau of NT-Xent.
        tile_size: Rows of a tile of the similarity matrix, which then is never held as a whole; or
            when to take tiles: "auto" where it is large, None never. See docs/losses.md.
    """

    name: Literal["simclr", "classifier", "coral", "dann"] = "simclr"
    temperature: float = 0.1
    tile_size: int | Literal["auto"] | None = "auto"

    @property
    def supervised(self) -> bool:
        """Whether it trains a classifier, on labels."""
        return self.name != "simclr"

    @property
    def adapts(self) -> bool:
        """Whether it sees images of a second domain."""
        return self.name in ("coral", "dann")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """What method.name "classifier", and every other that has labels, trains.

    Attributes:
        num_classes: Of the labels.
        label_fraction: Share of each class's labelled training images that are trained on.
        stages: Of the encoder that are trained, from the last: "all", or a number; 0 trains the
            classifier alone on frozen features, the linear probe by SGD. BatchNorm uses its running
            statistics unless it is "all".
        head_layers: Hidden layers of the projection head that are kept below the classifier;
            SimCLRv2 keeps one of three.
        layer_decay: Learning rate of a stage over that of the stage after it.
        dropout: Share of the classifier's inputs that are set to 0.
        label_smoothing: Share of the label that goes to all classes alike.
    """

    num_classes: int = 0
    label_fraction: float = 1.0
    stages: int | Literal["all"] = "all"
    head_layers: int = 0
    layer_decay: float = 1.0
    dropout: float = 0.0
    label_smoothing: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """The domain that method.name "coral" and "dann" adapt to; labels are those of data.source.

    Attributes:
        target: Images of it, as data.source; their labels are not trained on.
        target_validation: Images of it to report on, as data.validation_source; "" holds out a part
            of the target, of the size and by the seed that hold out a part of the source.
        target_labels: As data.labels, of the target.
        coral_weight: Of the CORAL loss beside the cross entropy.
        coral_layer: Whose covariances are aligned: "logits", as the paper does, or "features".
        dann_weight: Of the reversed gradient; it is multiplied by the paper's schedule from 0 to 1.
        dann_hidden: Width of the domain classifier's hidden layers; 0 is the feature width.
    """

    target: str = ""
    target_validation: str = ""
    target_labels: str = "auto"
    coral_weight: float = 1.0
    coral_layer: Literal["logits", "features"] = "logits"
    dann_weight: float = 1.0
    dann_hidden: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The update.

    Attributes:
        name: "lars", "sgd", "adam" (coupled decay) or "adamw" (decoupled).
        learning_rate: Before scaling by the batch size.
        scaling: "linear" (x N / 256), "sqrt" (x sqrt N) or "none".
        schedule: "cosine" to zero or "constant", after the warm-up.
        warmup_epochs: Of linear warm-up; fractions allowed.
        weight_decay: Its factor.
        exclude_norm_and_bias: Leave BatchNorm and biases out of decay and of LARS adaptation.
        momentum: Of LARS and SGD.
        nesterov: Of LARS and SGD.
        b1: Of Adam.
        b2: Of Adam.
        trust_coefficient: eta of LARS.
        trust_clip: Of LARS: no tensor moves faster than the learning rate (solo-learn's clip_lr).
        trust_eps: Of LARS: added to the norm under its ratio; the paper's code 0, solo-learn 1e-8.
        clip_norm: Largest global norm of the gradient; None does not clip.
    """

    name: Literal["lars", "sgd", "adam", "adamw"] = "lars"
    learning_rate: float = 0.3
    scaling: Literal["linear", "sqrt", "none"] = "linear"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 10.0
    weight_decay: float = 1e-6
    exclude_norm_and_bias: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    b1: float = 0.9
    b2: float = 0.999
    trust_coefficient: float = 0.001
    trust_clip: bool = False
    trust_eps: float = 0.0
    clip_norm: float | None = None


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
            checkpoint. RUN/sick tells what led there; see docs/robustness.md.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Where it runs; changes nothing that is computed, so it is no part of the config's hash.

    Attributes:
        backend: How the step is spread over devices: "shard_map" or "pmap" (one process only).
        devices: How many of this process's devices to use; 0 is all. With several processes, all.
        deterministic: Compile the step to the same bits at every execution, on GPUs too, where that
            costs time; CPUs and TPUs do so anyway.
        compile_cache: Folder of compiled programs; "" is ~/.cache/cssl_jax/compile, "off" is none.
    """

    backend: Literal["shard_map", "pmap"] = "shard_map"
    devices: int = 0
    deterministic: bool = False
    compile_cache: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. Defaults are the SimCLR paper's for ImageNet, at batch 256."""

    data: DataConfig = DataConfig()
    augment: ImagePolicy = dataclasses.field(default_factory=ImagePolicy)
    model: ModelConfig = ModelConfig()
    method: MethodConfig = MethodConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    adapt: AdaptConfig = AdaptConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    runtime: RuntimeConfig = RuntimeConfig()


# (fields, what they must satisfy, that in words); None and "auto" are choices of their own.
_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (
        (
            *("train.batch_size", "train.epochs", "train.log_every", "train.keep"),
            "train.nonfinite_limit",
            *("model.width", "model.projector_dim", "method.temperature", "method.tile_size"),
            *("optimizer.trust_coefficient", "optimizer.clip_norm"),
            *("data.min_side", "data.max_pixels"),
            *("evaluate.knn_k", "evaluate.knn_temperature", "evaluate.batch_size"),
            *("evaluate.probe_seeds", "evaluate.knn_ks", "evaluate.shots", "evaluate.recall_at"),
            *("evaluate.segment_pixels", "evaluate.segment_stages"),
        ),
        lambda value: 0 < value < math.inf,
        "a positive number",
    ),
    (
        (
            *("data.size", "model.norm_group", "model.projector_hidden"),
            *("adapt.coral_weight", "adapt.dann_weight", "adapt.dann_hidden"),
            *("optimizer.learning_rate", "optimizer.warmup_epochs", "optimizer.weight_decay"),
            "optimizer.trust_eps",
            *("train.micro_batch", "train.evaluate_every", "train.checkpoint_every"),
            *("train.checkpoint_steps", "train.checkpoint_minutes", "train.check_replicas_every"),
            *("evaluate.train_limit", "runtime.devices"),
            *("evaluate.l2_values", "evaluate.online_l2_values"),
        ),
        lambda value: 0 <= value < math.inf,
        "zero or a positive number",
    ),
    (
        (
            *("optimizer.momentum", "optimizer.b1", "optimizer.b2", "data.validation_fraction"),
            *("classifier.dropout", "classifier.label_smoothing"),
        ),
        lambda value: 0 <= value < 1,
        "a number within [0, 1)",
    ),
    (
        ("classifier.label_fraction", "classifier.layer_decay"),
        lambda value: 0 < value <= 1,
        "a number within (0, 1]",
    ),
    (
        ("data.max_rejected",),
        lambda value: 0 <= value <= 1,
        "a share within [0, 1]",
    ),
    (  # an interval needs two
        ("evaluate.draws",),
        lambda value: value >= 2,
        "2 or more",
    ),
    (
        ("data.channels",),
        lambda value: value in (1, 3, 4),
        "1, 3 or 4",
    ),
    (  # Without x64, jax.random.key folds a larger seed; the sampler would not.
        ("train.seed", "data.split_seed"),
        lambda value: 0 <= value < 2**32,
        "a whole number from 0 to 2**32 - 1",
    ),
)


def validate(config: Config) -> Config:
    """Returns the config, or raises UserError at the first value that cannot work."""
    for names, fits, wanted in _RANGES:
        for name in names:
            value = operator.attrgetter(name)(config)
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None and one != "auto" and not fits(one):
                    wanted = wanted if abs(one) < math.inf else "a finite number"
                    raise UserError(f"{name} is {value}; give {wanted}")
    if config.model.width > 1024:
        raise UserError(f"model.width is {config.model.width}; the widest in use is 4")
    if round(64 * config.model.width) < 1:  # channels of the stem
        raise UserError(
            f"model.width is {config.model.width}, which leaves no channel; the smallest useful "
            "width is 1/64 (0.015625)"
        )
    if config.train.batch_size < 2:
        raise UserError("train.batch_size is 1; a contrastive loss needs other examples, give 2+")
    if config.train.micro_batch_norm == "frozen":
        if not config.train.micro_batch:
            raise UserError(
                "train.micro_batch_norm is 'frozen' and train.micro_batch 0; give the micro-batch, "
                f"e.g. --train.micro-batch {config.train.batch_size} for the whole batch"
            )
        if not config.train.init:
            raise UserError(
                "train.micro_batch_norm is 'frozen' and train.init empty: random weights have no "
                "running statistics; give --train.init a run, or leave micro_batch_norm out"
            )
    if config.optimizer.warmup_epochs > config.train.epochs:
        raise UserError(
            f"optimizer.warmup_epochs {config.optimizer.warmup_epochs} exceeds train.epochs "
            f"{config.train.epochs}; shorten the warm-up, e.g. --optimizer.warmup-epochs "
            f"{config.train.epochs / 10:g}"
        )
    if config.model.projector_layers not in (1, 2, 3):
        raise UserError(
            f"model.projector_layers is {config.model.projector_layers}; give 1, 2 or 3"
        )
    if config.method.supervised:
        _validate_classifier(config)
    mean, std = config.data.mean, config.data.std
    finite = all(map(math.isfinite, mean)) and all(0 < s < math.inf for s in std)
    if bool(mean) != bool(std) or not finite:
        raise UserError(
            f"data.mean is {mean} and data.std {std}; give data.mean and data.std together, every "
            "number finite and every standard deviation positive"
        )
    if config.data.validation_fraction == 0 and not config.data.validation_source:
        raise UserError(
            "data.validation_fraction is 0, nothing would be left to measure on; give "
            "--data.validation-source or a share such as 0.1"
        )
    for name in PROBABILITIES:
        if len(getattr(config.augment, name)) not in (1, 2):
            raise UserError(
                f"augment.{name} is {getattr(config.augment, name)}; SimCLR has two views, give "
                "one probability for both or one for each"
            )
    return config


def _validate_classifier(config: Config) -> None:
    options = config.classifier
    if options.num_classes < 2:
        raise UserError(
            f"classifier.num_classes is {options.num_classes}; give the number of classes, or use "
            "`cssl-jax finetune RUN`, which counts them"
        )
    hidden = config.model.projector_layers - 1
    if not 0 <= options.head_layers <= hidden:
        raise UserError(
            f"classifier.head_layers is {options.head_layers}; this projection head has {hidden} "
            f"hidden layer(s): give 0 to {hidden}"
        )
    if options.stages != "all" and options.stages < 0:
        raise UserError(f'classifier.stages is {options.stages}; give "all", 0 or a number above')
    if config.train.micro_batch:
        raise UserError(
            f"train.micro_batch is {config.train.micro_batch}; it is for contrastive losses: for "
            "a classifier give a smaller train.batch_size"
        )
    if config.method.adapts and not config.adapt.target:
        raise UserError(
            f"method.name is {config.method.name!r} and adapt.target empty; give the images of the "
            "domain to adapt to"
        )
    if config.method.adapts and options.stages == 0:
        raise UserError(
            f"method.name is {config.method.name!r} and classifier.stages 0, which leaves the "
            "encoder as it is; give the number of stages that are to adapt, or 'all'"
        )
