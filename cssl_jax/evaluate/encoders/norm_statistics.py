"""Re-estimates BatchNorm's running statistics on a source's examples, without training (AdaBN)."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sampler import epoch_key, example_key, permute
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.encoders.features import Model
from cssl_jax.modalities.base import Modality
from cssl_jax.modalities.registry import modality_entry
from cssl_jax.runtime import spmd

PyTree = Any
# Number of this order among the orders derived from a seed: 0 to 2 split data, rank checkpoints and
# draw labels.
_ORDER = 3


def reestimate_norm_statistics(
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

    The method is AdaBN (Li et al. 2016, arXiv 1603.04779). One pass reads the images in batches of
    nearly equal size, in an order derived from the seed (a set may be sorted by class). Every batch
    is normalised by its own statistics, as in training. The moments of the batches are combined
    exactly into the mean and variance of all images, including the variance between batches (Wu &
    Johnson 2021, arXiv 2105.07576, sec. 3.1). Images are preprocessed as at test time.

    Args:
        modules: Modules by name, in the order of the data flow: "encoder" takes images, the next
            one takes its features. The names are those in ``model``, whose other modules stay
            unchanged.
        model: Variables {"params", "model_state"}, each with the modules by name.
        source: Images; labels are not read.
        spec: Size and normalisation of the encoder's input.
        mesh: Devices that a batch is sharded over; they do not change the result.
        batch_size: Maximum number of images normalised together.
        seed: Seed of the order of the images.

    Returns:
        The model with new statistics in "model_state" and unchanged "params".
    """
    if not jax.tree.leaves([model["model_state"][name] for name in modules]):
        return model  # without BatchNorm there is nothing to estimate
    modality = modality_entry(spec.kind)
    source = modality.to_arrays(source, spec)
    count = len(source)
    order = permute(np.arange(count), epoch_key(seed, _ORDER), count).astype(np.int64)
    # Without an axis name the compiler sees the whole batch, independent of its sharding. At
    # momentum 0 the new statistics replace the earlier ones completely.
    options: dict[str, Any] = {"axis_name": None, "norm_groups": 1, "norm_momentum": 0.0}
    clones = tuple((name, module.clone(**options)) for name, module in modules.items())
    replicated = NamedSharding(mesh, PartitionSpec())
    compute = functools.partial(
        _statistics,
        modules=clones,
        modality=modality,
        spec=spec,
        replicated=replicated,
    )
    keys = example_key(seed, np.uint32(_ORDER), np.arange(count))
    weights, batch_statistics = [], []
    for rows in np.array_split(order, -(-count // batch_size)):
        padded_size = -(-len(rows) // mesh.size) * mesh.size
        # Rows are repeated until the batch divides over the devices; the repetitions are cut off.
        process_rows = np.resize(rows, padded_size)[spmd.process_rows(padded_size, mesh)]
        (examples,) = source.take(process_rows).blocks(len(process_rows), **spec.reading)
        batch = spmd.put_batch({"examples": examples, "key": keys[process_rows]}, mesh)
        batch_statistics.append(jax.device_get(compute(model, batch, count=len(rows))))
        weights.append(len(rows) / count)
    updated = spmd.replicate(_combine(batch_statistics, weights), mesh)
    return {**model, "model_state": {**model["model_state"], **updated}}


@functools.partial(jax.jit, static_argnames=("count", "modules", "modality", "spec", "replicated"))
def _statistics(
    model: Model,
    batch: PyTree,
    *,
    count: int,
    modules: tuple[tuple[str, nn.Module], ...],
    modality: Modality,
    spec: InputSpec,
    replicated: NamedSharding,
) -> PyTree:
    """BatchNorm statistics of the first ``count`` of n examples with their keys, replicated.

    The examples after ``count`` only make the batch divide over the mesh; they are not used.
    """
    if count < len(batch["key"]):
        batch = jax.lax.with_sharding_constraint(batch, replicated)
        batch = jax.tree.map(lambda x: x[:count], batch)
    x: Any = modality.prepare(batch["examples"], spec)
    state = {}
    for name, module in modules:
        variables = {
            "params": model["params"][name],
            "batch_stats": model["model_state"][name],
        }
        # Masks are drawn as in training, so that BatchNorm sees the distribution of training.
        keys = {"keys": batch["key"]} if name == "encoder" else {}
        x, updated = module.apply(variables, x, train=True, mutable=["batch_stats"], **keys)
        x = x["features"] if name == "encoder" else x
        state[name] = updated.get("batch_stats", {})
    return jax.lax.with_sharding_constraint(state, replicated)


def _combine(batches: Sequence[PyTree], weights: Sequence[float]) -> PyTree:
    """Statistics of all images from those of each batch; weights are fractions of the images."""
    if set(batches[0]) != {"mean", "var"}:
        return {name: _combine([batch[name] for batch in batches], weights) for name in batches[0]}
    means, variances = (
        np.stack([np.asarray(batch[name], np.float64) for batch in batches])
        for name in ("mean", "var")
    )
    mean = np.average(means, axis=0, weights=weights)
    # Variance within the batches plus variance between them.
    variance = np.average(variances + (means - mean) ** 2, axis=0, weights=weights)
    dtype = batches[0]["mean"].dtype
    return {"mean": mean.astype(dtype), "var": variance.astype(dtype)}
