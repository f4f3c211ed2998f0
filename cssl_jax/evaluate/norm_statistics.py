"""BatchNorm's running statistics re-estimated on a source's images, without training (AdaBN)."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.features import Model, preprocess
from cssl_jax.runtime import spmd

PyTree = Any
_ORDER = 3  # number of this order among those derived from a seed; 0 to 2 split, rank, draw labels


def reestimate(
    modules: dict[str, nn.Module],
    model: Model,
    source: Source,
    spec: InputSpec,
    mesh: Mesh,
    *,
    batch_size: int,
    seed: int,
) -> Model:
    """Replaces all BatchNorm statistics of a model by those of a source's images.

    AdaBN (Li et al. 2016, arXiv 1603.04779). One pass in batches of nearly equal size, in an order
    derived from the seed (a set may be sorted by class). Every batch is normalised by its own
    statistics as in training. The batches' moments are combined exactly into the mean and variance
    of all images, between batches too (Wu & Johnson 2021, arXiv 2105.07576, sec. 3.1). Images are
    preprocessed as at test time.

    Args:
        modules: Name -> module, in the order of the data flow: "encoder" takes images, the next
            one its features. Names are those of the model; its other modules stay as they are.
        model: {"params", "model_state"}, each with the modules by name.
        source: Images; labels are not read.
        spec: Size and normalisation of the encoder's input.
        mesh: Devices that a batch is spread over; does not change the result.
        batch_size: Maximum number of images normalised together.
        seed: Seed of the order.

    Returns:
        The model with new statistics in "model_state"; "params" are the given ones.
    """
    count = len(source)
    order = permute(np.arange(count), epoch_key(seed, _ORDER), count).astype(np.int64)
    # Without an axis the compiler sees the batch as a whole, however it is spread; at momentum 0
    # nothing of the earlier statistics survives.
    alone: dict[str, Any] = {"axis_name": None, "norm_groups": 1, "norm_momentum": 0.0}
    clones = tuple((name, module.clone(**alone)) for name, module in modules.items())
    everywhere = NamedSharding(mesh, PartitionSpec())
    compute = functools.partial(_statistics, modules=clones, spec=spec, everywhere=everywhere)
    weights, found = [], []
    for rows in np.array_split(order, -(-count // batch_size)):
        whole = -(-len(rows) // mesh.size) * mesh.size
        mine = np.resize(rows, whole)[spmd.process_rows(whole, mesh)]
        (images,) = source.take(mine).blocks(len(mine), spec.size)
        batch = spmd.put_batch(images, mesh)
        found.append(jax.device_get(compute(model, batch, count=len(rows))))
        weights.append(len(rows) / count)
    updated = spmd.replicate(_merged(found, weights), mesh)
    return {**model, "model_state": {**model["model_state"], **updated}}


@functools.partial(jax.jit, static_argnames=("count", "modules", "spec", "everywhere"))
def _statistics(
    model: Model,
    images: jax.Array,
    *,
    count: int,
    modules: tuple[tuple[str, nn.Module], ...],
    spec: InputSpec,
    everywhere: NamedSharding,
) -> PyTree:
    """Statistics of the first ``count`` of images uint8 [n, H, W, C], ``everywhere``.

    The images after ``count`` only make the batch divide over the mesh; they are not used.
    """
    if count < len(images):
        images = jax.lax.with_sharding_constraint(images, everywhere)[:count]
    x: Any = preprocess(images, size=spec.size, mean=spec.mean, std=spec.std)
    state = {}
    for name, module in modules:
        variables = {
            "params": model["params"][name],
            "batch_stats": model["model_state"][name],
        }
        x, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
        x = x["features"] if name == "encoder" else x
        state[name] = updated.get("batch_stats", {})
    return jax.lax.with_sharding_constraint(state, everywhere)


def _merged(parts: Sequence[PyTree], weights: Sequence[float]) -> PyTree:
    """Statistics of all images from those of each batch; weights are fractions of the images."""
    if set(parts[0]) != {"mean", "var"}:
        return {name: _merged([part[name] for part in parts], weights) for name in parts[0]}
    means, variances = (
        np.stack([np.asarray(part[name], np.float64) for part in parts]) for name in ("mean", "var")
    )
    mean = np.average(means, axis=0, weights=weights)
    variance = np.average(variances + (means - mean) ** 2, axis=0, weights=weights)
    dtype = parts[0]["mean"].dtype
    return {"mean": mean.astype(dtype), "var": variance.astype(dtype)}
