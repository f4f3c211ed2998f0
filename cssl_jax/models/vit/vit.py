"""Vision Transformers (arXiv 2010.11929) with the definitions of timm."""

import functools
import math
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.errors import UserError
from cssl_jax.models.attention import TransformerBlock
from cssl_jax.models.base import EncoderModule, class_entry
from cssl_jax.models.dropout import Dropout
from cssl_jax.models.sequence.masks import masked_mean, zero_outside
from cssl_jax.models.vit.positions import position_table, resample_positions

HEAD = 64  # channels per head at width 1, of every size in timm
# timm truncates at +-2, which is 100 standard deviations.
_INITIAL = nn.initializers.normal(0.02)
# torch's initialisation of a convolution and of its bias: uniform within 1 / sqrt(fan in).
_PATCH_KERNEL = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ViT(EncoderModule):
    """Patch projection, class token, positions, pre-norm blocks, LayerNorm.

    Every number is that of timm's ``vision_transformer.py``: LayerNorm with epsilon 1e-6, exact
    GELU, MLPs four times as wide as the tokens, and its initial weights: of standard deviation 0.02
    in dense layers and positions, 1e-6 in the class token. ``block{i}/qkv`` has the queries, keys
    and values of all heads in this order. The kernel of ``patch`` has the pixels of a patch in
    row-major order with channels last.

    With d channels, patches of side p and L patches, a model of C input channels has
    (p^2 C + L + 5) d parameters with a class token and learned positions, and each block
    12 d^2 + 13 d.

    Attributes:
        layers: Number of blocks.
        hidden: Number of channels at width 1; ``width`` multiplies it.
        patch: Side of a patch in pixels; it must divide the sides of the images.
        heads: Number of attention heads; 0: one per 64 channels at width 1. It has no influence on
            the shapes of the parameters: ViT-S of timm and DINO has 6, that of MoCo v3 12.
        pool: Features: "token" (the class token after the last LayerNorm), or "mean" (the last
            LayerNorm of the mean of the patches; there is no class token). timm's names are "token"
            and "avg".
        positions: "learned", or a fixed table of ``positions.position_table``; the class token has
            the position 0 in fixed tables.
        dropout: Rate of dropout after the positions and on every branch in training.
        drop_path: Rate of stochastic depth of the last block; it grows linearly from 0 in the first
            block.
        layer_scale: Initial value of LayerScale; 0: there is none.
        freeze_patch_projection: True to leave the random projection of patches as it is, as MoCo v3
            does for stability (arXiv 2104.02057, sec. 4).
    """

    layers: int = 12
    hidden: int = 192
    patch: int = 16
    heads: int = 0
    pool: str = "token"
    positions: str = "learned"
    dropout: float = 0.0
    drop_path: float = 0.0
    layer_scale: float = 0.0
    freeze_patch_projection: bool = False

    @property
    def num_stages(self) -> int:
        """Number of stages; every block is one."""
        return self.layers

    def depth_of(self, path: tuple[Any, ...]) -> int:
        """Block of a parameter from 1, by its path below the encoder; 0 is before the blocks.

        The last LayerNorm belongs to the last block.
        """
        name = path[0].key  # patch, class_token, positions, block1, ..., norm
        if name == "norm":
            return self.layers
        return int(name.removeprefix("block")) if name.startswith("block") else 0

    def is_frozen(self, path: tuple[Any, ...]) -> bool:
        """True for parameters that are never trained, by their path below the encoder."""
        return self.freeze_patch_projection and path[0].key == "patch"

    def constants(self, size: int) -> dict[str, np.ndarray]:
        """Arrays that are no parameters here, and that other libraries store among them.

        Args:
            size: Side of the images in pixels.

        Returns:
            {"positions": [T, D]} of a fixed table, with that of the class token; else {}.
        """
        if self.positions == "learned":
            return {}
        side = size // self.patch
        table = position_table(self.positions, side, side, self._sizes()[1])
        return {"positions": np.pad(table, ((self._prefix, 0), (0, 0)))}

    def with_live_branches(self) -> "ViT":
        """The same encoder with LayerScale initialised to 1, where there is one."""
        return self.clone(layer_scale=1.0) if self.layer_scale else self

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        keys: jax.Array | None = None,
        keep: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Encodes normalised images.

        Args:
            x: Normalised images, float [n, H, W, C].
            train: True to draw the masks of dropout and drop-path.
            keys: Keys per row, uint32 [n, 2], for these masks.
            keep: Patches that are encoded, in row-major order; they keep their positions. bool
                [n, T]: all T patches are computed, and those that are False influence no other
                token. int32 [n, V]: numbers of V distinct patches; only these are computed. None:
                all patches.

        Returns:
            Dictionary of "features", float [n, D], "tokens", the patches after the last LayerNorm,
            float [n, T, D], both float32 or wider, "block_features", the list of what the features
            would be if a block were the last one, and "stages", the list of the patches after each
            block, [n, H / p, W / p, D]. Patches that a mask omits are 0. With V patches, tokens and
            stages are [n, V, D] in the order of ``keep``.

        Raises:
            UserError: The inputs are no images or do not divide into patches, the heads do not
                divide the channels, or an option is unknown.
            ValueError: ``train`` is True, a rate is not 0, and there are no keys.
        """
        rows, columns = self._grid(x)
        heads, channels = self._sizes()
        selects = keep is not None and keep.dtype != jnp.bool_  # numbers of patches, no mask
        if keep is not None:
            chex.assert_shape(keep, (x.shape[0], None if selects else rows * columns))
        y = self._embed(x, channels, keep if selects else None)
        first = self._prefix  # number of the first patch among the tokens
        mask = None if selects else keep
        seen = None if mask is None else jnp.pad(mask, ((0, 0), (first, 0)), constant_values=True)
        y = Dropout(self.dropout, layer=0)(y, keys, train=train)
        stages, after_blocks = [], []
        for block in self._blocks(heads):
            y = block(y, seen, train, keys)
            after_blocks.append(y[:, 0] if first else _mean(y, mask))
            stage = y[:, first:] if mask is None else zero_outside(y[:, first:], mask)
            stages.append(stage if selects else stage.reshape(y.shape[0], rows, columns, channels))
        norm = nn.LayerNorm(use_fast_variance=False, dtype=self.dtype, name="norm")
        normalised = norm(y)
        tokens = normalised[:, first:]
        tokens = tokens if mask is None else zero_outside(tokens, mask)
        # One LayerNorm for both: with the mean, timm has it after the mean only, as fc_norm.
        features = normalised[:, 0] if first else norm(after_blocks[-1])
        return {
            "features": _wide(features),
            "tokens": _wide(tokens),
            "block_features": [_wide(norm(pooled)) for pooled in after_blocks],
            "stages": stages,
        }

    @property
    def _prefix(self) -> int:
        """Number of tokens before those of the patches."""
        return 1 if self.pool == "token" else 0

    def _embed(self, x: jax.Array, channels: int, kept: jax.Array | None) -> jax.Array:
        """Tokens of the class and of the patches whose numbers are ``kept``, with positions."""
        y = nn.Dense(
            channels,
            dtype=self.dtype,
            kernel_init=_PATCH_KERNEL,
            bias_init=_uniform_bias(self.patch**2 * x.shape[-1]),
            name="patch",
        )(patches_of(x, self.patch))
        table, of_token = self._table(*self._grid(x), channels)
        y = y + jnp.asarray(table, y.dtype)
        if kept is not None:
            y = jnp.take_along_axis(y, kept[:, :, None], axis=1)
        if not self._prefix:
            return y
        token = self.param("class_token", nn.initializers.normal(1e-6), (channels,)) + of_token
        tokens = jnp.broadcast_to(jnp.asarray(token, y.dtype), (y.shape[0], 1, channels))
        return jnp.concatenate([tokens, y], axis=1)

    def _blocks(self, heads: int) -> list[TransformerBlock]:
        rates = np.linspace(0, self.drop_path, self.layers).tolist()
        block = self.block(TransformerBlock)
        return [
            block(
                heads,
                self.dropout,
                rate,
                first=1 + 4 * i,
                dtype=self.dtype,
                kernel_init=_INITIAL,
                layer_scale=self.layer_scale,
                name=f"block{i + 1}",
            )
            for i, rate in enumerate(rates)
        ]

    def _grid(self, x: jax.Array) -> tuple[int, int]:
        """Number of rows and columns of patches; refuses inputs that have none."""
        shape = getattr(x, "shape", ())  # examples of other modalities are trees of arrays
        if len(shape) != 4:
            given = f"shape {shape}" if shape else "a tree of arrays"
            raise UserError(
                f"a ViT takes images [n, H, W, C] and was given {given}; for sequences use an "
                "encoder of sequences, such as --model.encoder transformer"
            )
        (height, width), patch = x.shape[1:3], self.patch
        if height % patch or width % patch:
            fitting = max(min(height, width) // patch, 1) * patch
            raise UserError(
                f"images of {height} x {width} pixels do not divide into patches of {patch}; use "
                f"--data.size {fitting}, or another --model.patch, such as 4 or 8 for small images"
            )
        return height // patch, width // patch

    def _sizes(self) -> tuple[int, int]:
        """(heads, channels): channels divide into the heads and into 4 parts of positions."""
        heads = self.heads or max(1, self.hidden // HEAD)
        if self.hidden % heads:
            raise UserError(
                f"{heads} heads do not divide the {self.hidden} channels of this ViT; give a "
                f"divisor, such as --model.heads {self.hidden // HEAD}"
            )
        if self.pool not in ("token", "mean"):
            raise UserError(f"pool {self.pool!r} is unknown; use 'token' or 'mean'")
        unit = math.lcm(heads, 4)
        return heads, max(1, round(self.hidden * self.width / unit)) * unit

    def _table(self, rows: int, columns: int, channels: int) -> tuple[Any, Any]:
        """(positions of the patches [rows columns, channels], position of the class token)."""
        if self.positions != "learned":
            return position_table(self.positions, rows, columns, channels), 0.0
        if not self.has_variable("params", "positions"):
            if rows != columns:
                raise UserError(
                    f"learned positions start from square images, not from {rows} x {columns} "
                    "patches; use --model.positions sincos_mae"
                )
            self.param("positions", _INITIAL, (self._prefix + rows * columns, channels))
        # Read, not declared: images of another size than at the start have a resampled table.
        table: jax.Array = self.get_variable("params", "positions")
        return resample_positions(table[self._prefix :], rows, columns), table[0]


def patches_of(x: jax.Array, side: int) -> jax.Array:
    """Images [n, H, W, C] as patches [n, (H / side)(W / side), side side C], in row-major order.

    Example:
        >>> patches_of(jnp.arange(16).reshape(1, 4, 4, 1), 2)[0, 1].tolist()
        [2, 3, 6, 7]
    """
    n, height, width, channels = x.shape
    x = x.reshape(n, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, side * side * channels)


def images_of(patches: jax.Array, rows: int, columns: int, channels: int) -> jax.Array:
    """Inverse of ``patches_of``: images [n, H, W, C] of patches [n, rows columns, side side C].

    Example:
        >>> x = jnp.arange(24).reshape(1, 4, 6, 1)
        >>> bool(jnp.all(images_of(patches_of(x, 2), 2, 3, 1) == x))
        True
    """
    side = math.isqrt(patches.shape[-1] // channels)
    x = patches.reshape(-1, rows, columns, side, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(len(patches), rows * side, columns * side, channels)


def _mean(y: jax.Array, mask: jax.Array | None) -> jax.Array:
    return _wide(y).mean(axis=1) if mask is None else masked_mean(y, mask)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _uniform_bias(inputs: int) -> nn.initializers.Initializer:
    def initial(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1, 1) / math.sqrt(inputs)

    return initial


_entry = functools.partial(
    class_entry,
    ViT,
    ("image",),
    reduced="vit_micro",
    options=(
        *("patch", "heads", "pool", "positions", "dropout", "drop_path", "layer_scale"),
        "freeze_patch_projection",
    ),
)
# timm's vit_tiny, vit_small, vit_base and vit_large; vit_micro has the same layers.
VIT_MICRO = _entry(layers=2, hidden=192)
VIT_TINY = _entry(layers=12, hidden=192)
VIT_SMALL = _entry(layers=12, hidden=384)
VIT_BASE = _entry(layers=12, hidden=768)
VIT_LARGE = _entry(layers=24, hidden=1024)
