"""Warnings about settings that are known to cost accuracy, each with its published measurement."""

from collections.abc import Iterator

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.config import Config, ImageData
from cssl_jax.methods.registry import method_entry
from cssl_jax.optim.registry import optimizer_entry

PAPER = "SimCLR paper, arXiv 2002.05709"
# Table B.1: ResNet-50 on ImageNet, linear probe, top-1 %: {batch: {epochs: (linear, sqrt)}}. The
# learning rate is scaled by the batch size (linear) or by its square root (sqrt).
TABLE_B1 = {
    256: {100: (57.5, 62.8), 200: (61.9, 64.3), 400: (64.7, 65.7), 800: (66.6, 66.5)},
    512: {100: (60.7, 63.8), 200: (64.0, 65.6), 400: (66.2, 66.7), 800: (67.8, 67.4)},
    1024: {100: (62.8, 64.3), 200: (65.3, 66.1), 400: (67.2, 67.2), 800: (68.5, 68.3)},
    2048: {100: (64.0, 64.7), 200: (66.1, 66.8), 400: (68.1, 67.9), 800: (68.9, 68.8)},
    4096: {100: (64.6, 64.5), 200: (66.5, 66.8), 400: (68.2, 68.0), 800: (68.9, 69.1)},
    8192: {100: (64.8, 64.8), 200: (66.6, 67.0), 400: (67.8, 68.3), 800: (69.0, 69.1)},
}
MIN_POINTS = 1.0  # smaller differences in top-1 % are no reason to warn


def warnings(config: Config) -> list[str]:
    """Messages about settings of a config that are known to cost accuracy, each with its source."""
    return [
        *_scaling(config),
        *_temperature(config),
        *_augmentation(config),
        *_head(config),
        *_statistics(config),
    ]


def _scaling(config: Config) -> Iterator[str]:
    batch, epochs = config.train.batch_size, config.train.epochs
    adapts = optimizer_entry(config.optimizer.name).trust_ratios  # as in the table, by LARS
    if not adapts or config.optimizer.scaling != "linear":
        return
    nearest_batch = min(TABLE_B1, key=lambda measured: abs(measured - batch))
    row = TABLE_B1[nearest_batch]
    nearest_epochs = min(row, key=lambda measured: abs(measured - epochs))
    linear, root = row[nearest_epochs]
    if root - linear >= MIN_POINTS:
        yield (
            f"linear scaling of the learning rate at batch {batch}: it costs {root - linear:.1f} "
            f"points at batch {nearest_batch} and {nearest_epochs} epochs, {linear} % against "
            f"{root} % with square-root scaling ({PAPER}, table B.1, ImageNet); use "
            "--optimizer.scaling sqrt --optimizer.learning-rate 0.075"
        )


def _temperature(config: Config) -> Iterator[str]:
    # Only for ImageNet, where these were measured: on CIFAR-10, 0.5 is best over long runs (B.9).
    temperature = method_entry(config.method.name).temperature(config)
    accuracies = {0.05: 59.7, 0.1: 64.4, 0.5: 60.7, 1.0: 58.0}  # top-1 %
    if temperature is None or config.model.stem != "imagenet":
        return
    if temperature <= 0.05 or temperature >= 0.5:
        nearest = min(accuracies, key=lambda measured: abs(measured - temperature))
        yield (
            f"temperature {temperature:g}: {accuracies[nearest]} % at {nearest:g}, "
            f"{accuracies[0.1]} % at 0.1 ({PAPER}, table 5, ImageNet at 100 epochs)"
        )


def _augmentation(config: Config) -> Iterator[str]:
    policy, data = config.augment, config.data
    if not (isinstance(policy, ImagePolicy) and isinstance(data, ImageData)):
        return
    channels = len(data.mean) or data.channels
    if data.source == "digits" or channels != 3 or not policy.uses("crop"):
        return
    if not policy.uses("jitter") or policy.jitter_strength == 0:
        yield (
            "crops without colour jitter: crops of one image share its colours, which then "
            f"identify the image without any other feature ({PAPER}, section 3.1 and figure 6)"
        )
    elif config.model.stem == "imagenet" and policy.jitter_strength <= 0.25:
        yield (
            f"colour jitter of strength {policy.jitter_strength:g}: 59.6 % at 1/8 and 61.0 % at "
            f"1/4, 63.2 % at 1 ({PAPER}, table 1, ImageNet at 100 epochs)"
        )


def _head(config: Config) -> Iterator[str]:
    if config.model.projector_layers == 1:
        yield (
            "a linear projection head: a non-linear one is worth 3 points "
            f"({PAPER}, section 4.2, ImageNet); use --model.projector-layers 2"
        )


def _statistics(config: Config) -> Iterator[str]:
    group, batch = config.model.norm_group, config.train.batch_size
    micro = config.train.micro_batch if config.train.micro_batch_norm == "batch" else 0
    size = group or micro or batch
    if size < batch:
        field = "model.norm_group" if group else "train.micro_batch"
        yield (
            f"{field} {size}: BatchNorm statistics of a fraction of the batch, which holds both "
            "views of its images, can reveal to the model which views belong together; the paper "
            f"uses statistics of the whole batch for that reason ({PAPER}, section 2.2, global BN)"
        )
