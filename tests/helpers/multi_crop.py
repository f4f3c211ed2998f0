"""A method with two view groups: SimCLR on two global views, and small local ones next to them."""

import dataclasses

import jax.numpy as jnp

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.augment.view_group import ViewGroup
from cssl_jax.config import SimCLRConfig
from cssl_jax.methods.entry import MethodEntry
from cssl_jax.methods.simclr import SimCLR

KEPT = ("crop_box", "crop_y", "horizontal_flip")
# One probability per local view: flips tell which probability a view was given.
LOCAL_POLICY = ImagePolicy(
    crop=(1.0,),
    crop_area=(0.1, 0.5),
    horizontal_flip=(1.0, 0.0, 1.0),
    jitter=(0.0, 1.0, 0.5),
    jitter_strength=0.4,  # a larger one multiplies the rounding to 8 bits of split placements
    blur=(0.0,),
    solarize=(0.3,),
)
VIEWS = {
    "main": ViewGroup(2, keep=KEPT),
    "local": ViewGroup(3, size=5, policy=LOCAL_POLICY, keep=KEPT),
}


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class MultiCrop(SimCLR):
    """Adds the distance of local from global projections, weighted by the area of the crop."""

    @property
    def views(self):
        return VIEWS

    def encode(self, params, model_state, method_state, batch, ctx):
        main, state = super().encode(params, model_state, method_state, batch, ctx)
        small = {"views": {"main": batch["views"]["local"]}}
        local, state = super().encode(params, state, method_state, small, ctx)
        return {"main": main, "local": local}, state

    def objective(self, params, method_state, outputs, examples, ctx):
        loss, metrics, carry = super().objective(
            params, method_state, outputs["main"], examples, ctx
        )
        box = examples["drawn"]["local"]["crop_box"]
        main, local = unit(outputs["main"]).mean(axis=1, keepdims=True), unit(outputs["local"])
        distance = 1 - jnp.sum(unit(main) * local, axis=-1)
        loss += jnp.mean(box[..., 2] * box[..., 3] * distance)
        return loss, {**metrics, "loss": loss}, carry


def build(config, modules):
    return MultiCrop(modules.encoder, modules.head(), config.method.temperature)


MULTI_CROP = MethodEntry(build=build, config=SimCLRConfig, chance_level=lambda config: 0.0)
