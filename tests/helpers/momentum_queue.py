"""A method with all kinds of state: momentum copy, queue, centre, constraint and keys of the step.

It imports the public package only, so that it serves as a user's own file as well.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cssl_jax.config import SimCLRConfig
from cssl_jax.methods.base import copied
from cssl_jax.methods.entry import MethodEntry
from cssl_jax.methods.simclr import SimCLR

MOMENTUM, CENTRE_MOMENTUM = 0.9, 0.8
DIRECTION = 1  # purpose of a key


def average(old, new):
    return MOMENTUM * old + (1 - MOMENTUM) * new


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class MomentumQueue(SimCLR):
    """MoCo v2 in small: view 1 is compared with the momentum copy's view 2 and a queue.

    ``in_batch`` adds the keys of the global batch as negatives, so that examples depend on each
    other and the loss is not separable.
    """

    dim: int = 16
    queue: int = 20
    in_batch: bool = False

    @property
    def separable(self):
        return not self.in_batch

    def init(self, key, batch):
        params, model_state = super().init(key, batch)
        drawn = jax.random.normal(jax.random.fold_in(key, 7), (3, self.dim))
        return {**params, "prototypes": unit(drawn)}, model_state

    def start(self, params, model_state):
        modules = {name: params[name] for name in ("encoder", "projector")}
        queue = jax.random.normal(jax.random.key(3), (self.queue, self.dim))
        return {
            "params": copied(modules),
            "model_state": copied(model_state),
            "queue": unit(queue),
            "pointer": jnp.int32(0),
            "centre": jnp.zeros(self.dim),
        }

    def encode(self, params, model_state, method_state, batch, ctx):
        first = {"views": {"main": batch["views"]["main"][:, :1]}}
        return super().encode(params, model_state, method_state, first, ctx)

    def targets(self, params, model_state, method_state, batch, ctx):
        second = {"views": {"main": batch["views"]["main"][:, 1:]}}
        projections, statistics = super().encode(
            method_state["params"], method_state["model_state"], {}, second, ctx
        )
        return {"key": unit(projections[:, 0])}, statistics

    def objective(self, params, method_state, outputs, examples, ctx):
        query, key = unit(outputs[:, 0]), examples["targets"]["key"]
        negatives, carry = method_state["queue"] - method_state["centre"], {}
        if self.in_batch:
            carry["keys"] = ctx.global_rows(key)
            negatives = jnp.concatenate([negatives, carry["keys"]])
        positive = jnp.sum(query * key, axis=1, keepdims=True)
        logits = jnp.concatenate([positive, query @ negatives.T], axis=1) / self.temperature
        losses = jax.nn.logsumexp(logits, axis=1) - logits[:, 0]
        direction = unit(jax.random.normal(ctx.key(DIRECTION), query.shape[1:]))
        losses += jax.nn.logsumexp(query @ params["prototypes"].T, axis=1) + query @ direction
        loss, carry["mean"] = jnp.mean(losses), jnp.mean(key, axis=0)
        if ctx.axis_name is not None:
            carry["mean"] = jax.lax.pmean(carry["mean"], ctx.axis_name)
        return loss, {"loss": loss, "similarity": jnp.mean(positive)}, carry

    def after_update(self, params, method_state, step, ctx):
        keys = step.carry["keys"] if self.in_batch else ctx.global_rows(step.targets["key"])
        pointer = method_state["pointer"]
        places = (pointer + jnp.arange(len(keys))) % self.queue
        modules = {name: params[name] for name in method_state["params"]}
        centre = (
            CENTRE_MOMENTUM * method_state["centre"] + (1 - CENTRE_MOMENTUM) * (step.carry["mean"])
        )
        return {
            "params": jax.tree.map(average, method_state["params"], modules),
            "model_state": step.target_state,
            "queue": method_state["queue"].at[places].set(keys),
            "pointer": (pointer + len(keys)) % self.queue,
            "centre": centre,
        }

    def project(self, params, ctx):
        return {**params, "prototypes": unit(params["prototypes"])}

    def evaluated(self, params, model_state, method_state):
        return {name: method_state[name] for name in ("params", "model_state")}


def method_of(config, modules, method=MomentumQueue, **options):
    head, dim = modules.head(), config.model.projector_dim
    return method(modules.encoder, head, config.method.temperature, dim=dim, **options)


def entry(**options):
    def build(config, modules):
        return method_of(config, modules, **options)

    return MethodEntry(build=build, config=SimCLRConfig, chance_level=lambda config: 0.0)


QUEUE = entry()
IN_BATCH = entry(in_batch=True)
