"""A modality of series of different lengths, with an encoder that masks padding and drops features.

It imports the public package only, so that it serves as a user's own file as well.
"""

import dataclasses
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.base import Policy
from cssl_jax.config import DataConfig
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.errors import UserError
from cssl_jax.modalities.base import Baseline, Modality
from cssl_jax.models.dropout import Dropout
from cssl_jax.models.normalization import BatchNorm, NormGroups
from cssl_jax.models.registry import EncoderEntry

STEPS, CHANNELS = 12, 3


def source(size=48, classes=3, seed=0):
    """Noisy sines, whose frequency is their class; positions from the length on hold rubbish."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size)
    phase = rng.uniform(0, 2 * np.pi, (size, 1, CHANNELS))
    time = np.arange(STEPS)[None, :, None]
    values = np.sin(phase + time * (1 + labels[:, None, None])) + 0.1 * rng.normal(
        size=(size, STEPS, CHANNELS)
    )
    length = rng.integers(5, STEPS + 1, size)
    values[np.arange(STEPS) >= length[:, None]] = 7.0
    examples = {"values": values.astype(np.float32), "length": length.astype(np.int32)}
    return ArraySource("waves", examples, labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveData(DataConfig):
    """Where series come from.

    Attributes:
        source: An .npz file with values (float32 [N, T, C]), length (int32 [N]) and optionally
            labels (int [N]).
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class WavePolicy(Policy):
    """Scaling, and a stretch of a series set to 0.

    Attributes:
        scale: Maximum change of the scale, as a fraction.
        erase: Probability of the erased stretch.
    """

    scale: float = 0.3
    erase: tuple[float, ...] = (0.5,)

    @property
    def per_view(self):
        return ("erase",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveSpec(InputSpec):
    """Input of the encoder; ``size`` is the number of steps.

    Attributes:
        mean: Mean per channel.
        std: Standard deviation per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


def open_source(text, data):
    with np.load(pathlib.Path(text)) as content:
        examples = {name: content[name] for name in ("values", "length")}
        return ArraySource("waves", examples, content.get("labels"))


def checked(examples, spec):
    if set(examples) != {"values", "length"}:
        raise UserError(f"series have {sorted(examples)}; give values [N, T, C] and length [N]")
    return examples


def padding_mask(x):
    """Bool [..., T], False at the steps from the length on."""
    return jnp.arange(x["values"].shape[-2]) < x["length"][..., None]


def input_spec(data, train):
    valid = train.examples["values"][np.asarray(padding_mask(train.examples))]
    statistics = {"mean": valid.mean(axis=0), "std": valid.std(axis=0)}
    values = {name: tuple(map(float, value)) for name, value in statistics.items()}
    return WaveSpec(kind=data.modality, size=train.examples["values"].shape[1], **values)


def misfit(train, spec):
    channels = train.examples["values"].shape[-1]
    if channels == len(spec.mean):
        return ""
    return f"series have {channels} channels; this encoder takes {len(spec.mean)}"


def sample_views(keys, policy, views, first):
    def sample(key, view):
        view_key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), view)
        drawn = jax.random.uniform(view_key, (3,), float)
        erase = jnp.asarray(policy.erase)[(view - first) % len(policy.erase)]
        return {
            "scale": 1 + policy.scale * (2 * drawn[0] - 1),
            "erase": drawn[1] < erase,
            "start": drawn[2],
        }

    of_example = jax.vmap(sample, in_axes=(None, 0))
    return jax.vmap(of_example, in_axes=(0, None))(keys, jnp.arange(first, first + views))


def view_examples(examples, drawn, group):
    shape = drawn["scale"].shape
    values, length = examples["values"][:, None], examples["length"][:, None]
    values = values * drawn["scale"][..., None, None]
    start = jnp.floor(drawn["start"] * length)
    steps = jnp.arange(values.shape[-2])
    erased = (steps >= start[..., None]) & (steps < start[..., None] + 3)
    erased &= drawn["erase"][..., None]
    values = jnp.where(erased[..., None], 0, values)
    return {"values": values, "length": jnp.broadcast_to(length, shape)}


def prepare(examples, spec):
    values = jnp.asarray(examples["values"], float)
    mean, std = (jnp.asarray(x, values.dtype) for x in (spec.mean, spec.std))
    return {"values": (values - mean) / std, "length": examples["length"]}


def zeros(spec, size, n, k):
    values = np.zeros((n, k, size, len(spec.mean)), np.float32)
    return {"values": values, "length": np.full((n, k), size, np.int32)}


def mean_over_time(series):
    found = []
    for block in series.blocks(1024, 0):
        mask = np.asarray(padding_mask(block))[..., None]
        found.append(np.where(mask, block["values"], 0).sum(axis=1) / mask.sum(axis=1))
    return np.concatenate(found).astype(np.float32)


def show(series):
    """Every series as a strip of grey, one row per channel."""
    images = (
        np.clip(127 + 60 * values.T, 0, 255).astype(np.uint8)[..., None]
        for block in series.blocks(256, 0)
        for values in block["values"]
    )
    return max(series.examples["values"].shape[1:]), images


def write(series, data, count, path):
    series = series or source(count)
    path = path.with_suffix(".npz")
    np.savez(path, **series.examples, labels=series.labels)
    return str(path)


WAVES = Modality(
    noun="series",
    data=WaveData,
    augment=WavePolicy,
    spec=WaveSpec,
    open=open_source,
    examples=checked,
    input_spec=input_spec,
    layout=lambda series: f"series of shape {series.examples['values'].shape[1:]}",
    misfit=misfit,
    sample_views=sample_views,
    apply_views=lambda examples, drawn, group, spec: prepare(
        view_examples(examples, drawn, group), spec
    ),
    view_examples=view_examples,
    prepare=prepare,
    zeros=zeros,
    baselines={"mean": Baseline(label="mean over time", features=mean_over_time)},
    show=show,
    write=write,
)


class WaveEncoder(nn.Module):
    """A convolution, BatchNorm over the steps that count, their mean, and dropout."""

    width: float = 1.0
    rate: float = 0.3
    axis_name: str | None = None
    norm_groups: int | NormGroups = 1
    norm_momentum: float = 0.9

    num_stages = 1

    def depth_of(self, path):
        return 1

    def with_live_branches(self):
        return self

    @nn.compact
    def __call__(self, x, train=False, keys=None, keep=None):
        mask = padding_mask(x)
        mask = mask if keep is None else mask & keep
        # Padding becomes what the convolution pads with, so that its amount has no influence.
        y = jnp.where(mask[..., None], x["values"], 0)
        y = nn.Conv(round(32 * self.width), (3,), name="conv")(y)
        norm = BatchNorm(self.axis_name, self.norm_groups, self.norm_momentum, name="norm")
        y = nn.relu(norm(y, train=train, mask=mask))
        y = jnp.where(mask[..., None], y, 0)
        y = y.sum(axis=1) / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
        y = Dropout(self.rate, layer=0)(nn.Dense(16, name="dense")(y), keys, train=train)
        return {"features": y.astype(jnp.promote_types(y.dtype, jnp.float32))}


def build(*, width, axis_name, norm_groups, **others):
    return WaveEncoder(width=width, axis_name=axis_name, norm_groups=norm_groups)


ENCODER = EncoderEntry(build=build)
