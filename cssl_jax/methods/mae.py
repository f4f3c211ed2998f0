"""MAE (arXiv 2111.06377): the pixels of hidden patches, predicted from a few visible ones."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.augment.view_group import ViewGroup
from cssl_jax.config import Config, MethodConfig
from cssl_jax.config.ranges import POSITIVE, Range
from cssl_jax.errors import UserError
from cssl_jax.methods.base import (
    Batch,
    Context,
    Method,
    PyTree,
    flat_views,
    mask_keys,
    run_module,
    split_variables,
)
from cssl_jax.methods.entry import LossCost, MethodEntry, Modules, StepCost, StepSizes, options_of
from cssl_jax.models.vit.decoder import PatchDecoder
from cssl_jax.models.vit.vit import images_of, patches_of

_ORDER = 0x6F726465  # purpose of a row's key: the order in which its patches are hidden
_DECODER = 0x6465636F  # the decoder's key is folded with it
_CHANNELS = 3  # assumed by chance level and cost, which know the config only


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAEConfig(MethodConfig):
    """MAE: an encoder of a few patches, and a small decoder of the pixels of all others.

    Attributes:
        masked: Fraction of the patches that are hidden.
        normalize_pixels: True to predict the pixels of a patch without its mean and deviation.
        decoder_layers: Number of blocks of the decoder.
        decoder_hidden: Number of channels of the decoder, a multiple of its heads and of 4.
        decoder_heads: Number of attention heads of the decoder.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        "masked": Range(lambda value: 0 < value < 1, "a fraction within (0, 1)"),
        "decoder_layers": POSITIVE,
        "decoder_hidden": POSITIVE,
        "decoder_heads": POSITIVE,
    }

    name: str = "mae"
    masked: float = 0.75
    normalize_pixels: bool = True
    decoder_layers: int = 8
    decoder_hidden: int = 512
    decoder_heads: int = 16


@dataclasses.dataclass(frozen=True)
class MAE(Method):
    """The objective of MAE: the mean squared error of the hidden patches' pixels (sec. 3).

    Which patches are hidden is drawn from the example's key, as many in every image. The encoder
    computes the visible ones only. The loss is a mean over examples.

    Attributes:
        encoder: Vision Transformer, with "patch" and "pool" as of ``models.vit.ViT``.
        decoder: Decoder of patches.
        masked: Fraction of the patches that are hidden.
        normalize_pixels: Whether a patch is predicted without its mean and deviation.
    """

    encoder: Any
    decoder: nn.Module
    masked: float = 0.75
    normalize_pixels: bool = True
    separable = True

    @property
    def views(self) -> dict[str, ViewGroup]:
        """One view per example."""
        return {"main": ViewGroup(1)}

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Initialises both modules; needs no mapped axis."""
        images = flat_views(batch["views"]["main"])
        encoder = self.encoder.init(key, images)
        encoded = jax.eval_shape(self.encoder.apply, encoder, images)
        order = self.order(batch)
        visible = self._visible(order)
        tokens = jnp.zeros((len(images), visible, encoded["tokens"].shape[-1]))
        decoder = self.decoder.init(
            jax.random.fold_in(key, _DECODER),
            tokens,
            order,
            self._grid(images),
            self._patch**2 * images.shape[-1],
            self._class_token(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), encoded)),
        )
        return split_variables({"encoder": encoder, "decoder": decoder})

    def order(self, batch: Batch) -> jax.Array:
        """Numbers of all patches of each image, the visible ones first, int32 [n, L]."""
        images = flat_views(batch["views"]["main"])
        count = math.prod(self._grid(images))
        keys = mask_keys(batch, 1)
        if keys is None:  # for initialisation
            return jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (len(images), count))

        def drawn(key: jax.Array) -> jax.Array:
            wrapped = jax.random.wrap_key_data(key, impl="threefry2x32")
            noise = jax.random.uniform(jax.random.fold_in(wrapped, _ORDER), (count,), jnp.float32)
            return jnp.argsort(noise).astype(jnp.int32)

        return jax.vmap(drawn)(keys)

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """Predicted pixels of the hidden patches, float [n, M, p p C], in the order drawn."""
        images = flat_views(batch["views"]["main"])
        train = ctx.train and not ctx.frozen_norm
        order = self.order(batch)
        encoded, encoder_state = run_module(
            self.encoder,
            "encoder",
            params,
            model_state,
            images,
            train,
            mask_keys(batch, 1),
            order[:, : self._visible(order)],
        )
        with jax.named_scope("decoder"):
            predicted = self.decoder.apply(
                {"params": params["decoder"]},
                encoded["tokens"],
                order,
                self._grid(images),
                self._patch**2 * images.shape[-1],
                self._class_token(encoded),
                train,
            )
        return predicted, {"encoder": encoder_state, "decoder": {}}

    def targets(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """Pixels of the hidden patches, float32 or wider [n, M, p p C], in the order drawn."""
        images, order = flat_views(batch["views"]["main"]), self.order(batch)
        hidden = order[:, self._visible(order) :, None]
        pixels = jnp.take_along_axis(patches_of(images, self._patch), hidden, axis=1)
        pixels = pixels.astype(jnp.promote_types(pixels.dtype, jnp.float32))
        return (normalized(pixels)[0] if self.normalize_pixels else pixels), {}

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Loss of this device's examples: the mean over hidden patches and their pixels."""
        loss = jnp.mean(jnp.square(outputs - jax.lax.stop_gradient(examples["targets"])))
        return loss, {"loss": loss}, {}

    def reconstruct(
        self, params: PyTree, model_state: PyTree, batch: Batch
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the encoder sees of each image, and what the decoder adds, as in figure 2.

        Predictions without mean and deviation get those of the hidden patch itself.

        Args:
            params: Parameters of encoder and decoder.
            model_state: State of both.
            batch: Batch with one view per example, and the keys that hide patches.

        Returns:
            (visible, rebuilt, errors): normalised images float [n, H, W, C], the first with 0 in
            hidden patches, the second with predictions there, and the loss of each image [n].
        """
        ctx = Context(jnp.zeros((), jnp.int32), 1, None, train=False)
        predicted, _ = self.encode(params, model_state, {}, batch, ctx)
        targets, _ = self.targets(params, model_state, {}, batch, ctx)
        errors = jnp.mean(jnp.square(predicted - targets), axis=(1, 2))
        images, order = flat_views(batch["views"]["main"]), self.order(batch)
        hidden = order[:, self._visible(order) :, None]
        patches = patches_of(images, self._patch).astype(predicted.dtype)
        if self.normalize_pixels:
            _, mean, deviation = normalized(jnp.take_along_axis(patches, hidden, axis=1))
            predicted = predicted * deviation + mean
        rows = jnp.arange(len(images))[:, None]
        shape = (*self._grid(images), images.shape[-1])
        seen = images_of(patches.at[rows, hidden[:, :, 0]].set(0), *shape)
        return seen, images_of(patches.at[rows, hidden[:, :, 0]].set(predicted), *shape), errors

    @property
    def _patch(self) -> int:
        return int(self.encoder.patch)

    def _grid(self, images: jax.Array) -> tuple[int, int]:
        return images.shape[1] // self._patch, images.shape[2] // self._patch

    def _visible(self, order: jax.Array) -> int:
        return visible_patches(order.shape[1], self.masked)

    def _class_token(self, encoded: dict[str, Any]) -> jax.Array | None:
        """The class token after the last norm; None where features are the mean of the patches."""
        token: jax.Array = encoded["features"]
        return token if self.encoder.pool == "token" else None


def visible_patches(patches: int, masked: float) -> int:
    """Number of visible patches: the whole part of their fraction, at least one.

    Example:
        >>> visible_patches(196, 0.75)
        49
    """
    return max(math.floor(patches * (1 - masked) + 1e-9), 1)


def normalized(pixels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(patches without mean and deviation, means, deviations) of patches [..., P].

    The variance is the unbiased one, as in the authors' code, and 1e-6 is added to it.
    """
    mean = jnp.mean(pixels, axis=-1, keepdims=True)
    deviation = jnp.sqrt(jnp.var(pixels, axis=-1, keepdims=True, ddof=1) + 1e-6)
    return (pixels - mean) / deviation, mean, deviation


def _build(config: Config, modules: Modules) -> MAE:
    options, encoder = options_of(config, MAEConfig), modules.encoder
    if not hasattr(encoder, "patch"):
        raise UserError(
            f"method 'mae' hides patches, and encoder {config.model.encoder!r} has none; use "
            "--model.encoder vit_small, or vit_tiny, vit_base, vit_large"
        )
    if options.decoder_hidden % math.lcm(options.decoder_heads, 4):
        raise UserError(
            f"method.decoder_hidden is {options.decoder_hidden}; give a multiple of "
            f"{math.lcm(options.decoder_heads, 4)}, for {options.decoder_heads} heads and four "
            "parts of positions"
        )
    decoder = PatchDecoder(
        options.decoder_layers,
        options.decoder_hidden,
        options.decoder_heads,
        remat=config.model.remat,
        dtype=encoder.dtype,
    )
    return MAE(encoder, decoder, options.masked, options.normalize_pixels)


def _chance_level(config: Config) -> float:
    """Loss of predictions of 0."""
    pixels = config.model.patch**2 * _CHANNELS
    return (pixels - 1) / pixels if options_of(config, MAEConfig).normalize_pixels else 1.0


def _cost(config: Config) -> StepCost:
    options = options_of(config, MAEConfig)

    def decoder(sizes: StepSizes) -> LossCost:
        """Operations of the decoder, forward and backward."""
        width, tokens = options.decoder_hidden, sizes.steps + (config.model.pool == "token")
        pixels = config.model.patch**2 * _CHANNELS
        visible = visible_patches(sizes.steps, options.masked)
        seen = visible + (config.model.pool == "token")
        blocks = options.decoder_layers * (2 * 12 * width**2 * tokens + 4 * tokens**2 * width)
        ends = 2 * sizes.features * width * seen + 2 * width * pixels * (sizes.steps - visible)
        weights = options.decoder_layers * (12 * width**2 + 13 * width)
        weights += (sizes.features + 1) * width + 3 * width + (width + 1) * pixels
        return LossCost(
            flops=3 * (blocks + ends) * sizes.batch // sizes.devices,
            gathered=0,
            gathered_masks=0,
            all_reduce=0,
            metrics=1,
            parameters=weights,
        )

    return StepCost(views=1, contrasts=False, loss=decoder, visible=1 - options.masked)


ENTRY = MethodEntry(
    build=_build,
    chance_level=_chance_level,
    config=MAEConfig,
    cost=_cost,
)
