"""Names, layouts and configs of timm, torchvision and transformers for a ViT of this package."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cssl_jax.interop.vit.huggingface_vit import huggingface_config, huggingface_names
from cssl_jax.interop.vit.timm_vit import to_timm
from cssl_jax.interop.vit.torchvision_vit import torchvision_names
from cssl_jax.interop.vit.vit_weights import HEAD, SIZES

# timm's entry points by the channels of a token; their options replace all other sizes.
_TIMM = {
    192: "vit_tiny_patch16_224",
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTExport:
    """A ViT in the terms of other libraries; see ``peer_export.PeerExport``.

    Attributes:
        model: Values of the config section ``model`` of the run.
        channels: Number of image channels.
        size: Side of the encoder's input in pixels.
        variables: {"params"} with "positions", where they are fixed too.
    """

    model: Mapping[str, Any]
    channels: int
    size: int
    variables: Mapping[str, Any]

    @property
    def stored(self) -> dict[str, Any]:
        """Options of the model for the metadata of the file."""
        names = ("encoder", "width", "patch", "pool")
        stated = {name: self.model[name] for name in names}
        return {**stated, "heads": self._heads, "channels": self.channels}

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the torchvision format; there are none."""
        return ()

    def refusal(self, format: str) -> str:
        """Why a library has no such module, and the way out; "" if it has."""
        found = []
        library = {"huggingface": "transformers"}.get(format, format)
        if format != "timm" and self.model["pool"] != "token":
            found.append("it has no ViT with the mean of the patches")
        if format == "torchvision" and self.model["layer_scale"]:
            found.append("it has no ViT with LayerScale")
        return (
            f"{library} cannot build this encoder: {'; '.join(found)}. Use --format timm"
            if found
            else ""
        )

    def state_dict(self, format: str) -> dict[str, np.ndarray]:
        """State dict with the names of a format."""
        arrays = to_timm(self.variables["params"], self.channels)
        floats = {key: np.asarray(array, np.float32) for key, array in arrays.items()}
        names = {"torchvision": torchvision_names, "huggingface": huggingface_names}
        return names[format](floats) if format in names else floats

    def torchvision_lines(self) -> str:
        """Python lines that build the module with torchvision and load model.safetensors."""
        patch, hidden = self.model["patch"], self._hidden
        lines = [
            "import torch",
            "from safetensors.torch import load_file",
            "from torchvision.models.vision_transformer import VisionTransformer",
            "",
            f"model = VisionTransformer({self.size}, {patch}, {self._layers}, {self._heads}, "
            f"{hidden}, {4 * hidden})",
            f"model.conv_proj = torch.nn.Conv2d({self.channels}, {hidden}, {patch}, {patch})",
            "model.heads = torch.nn.Identity()",
            'model.load_state_dict(load_file("model.safetensors"))',
            "model.eval()",
        ]
        return "\n".join(lines)

    def timm_config(self) -> dict[str, Any]:
        """What timm's config.json states of the model."""
        is_mean = self.model["pool"] == "mean"
        pool = "avg" if is_mean else "token"
        arguments = {
            "img_size": self.size,
            "patch_size": self.model["patch"],
            "embed_dim": self._hidden,
            "depth": self._layers,
            "num_heads": self._heads,
            "in_chans": self.channels,
            "class_token": not is_mean,
            "global_pool": pool,
        }
        if self.model["layer_scale"]:
            arguments["init_values"] = self.model["layer_scale"]
        return {
            "architecture": _TIMM.get(self._hidden, _TIMM[192]),
            "global_pool": pool,
            "model_args": arguments,
            "pretrained_cfg": {"first_conv": "patch_embed.proj", "classifier": "head"},
        }

    def transformers_config(self) -> dict[str, Any]:
        """What transformers' config.json states of the model."""
        return huggingface_config(
            hidden=self._hidden,
            layers=self._layers,
            heads=self._heads,
            size=self.size,
            patch=self.model["patch"],
            channels=self.channels,
            scale=self.model["layer_scale"],
        )

    @property
    def transformers_call(self) -> tuple[str, str]:
        """Features are the class token; the pooler of a ViT is a layer of its own, without it."""
        is_vit = not self.model["layer_scale"]
        return ", add_pooling_layer=False" if is_vit else "", "last_hidden_state[:, 0]"

    @property
    def _layers(self) -> int:
        return SIZES[self.model["encoder"]][0]

    @property
    def _hidden(self) -> int:
        return int(np.shape(self.variables["params"]["patch"]["bias"])[0])

    @property
    def _heads(self) -> int:
        return int(self.model["heads"]) or SIZES[self.model["encoder"]][1] // HEAD
