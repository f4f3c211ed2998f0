"""BatchNorm's running statistics re-estimated on other images, without training (AdaBN)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cssl_jax import parallel
from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.data.sources import Source
from cssl_jax.evaluate.features import InputSpec, Model, preprocess
from cssl_jax.methods.classifier import Classifier

PyTree = Any
_ORDER = 3  # of the keyed orders of a seed: 0 to 2 split, rank and draw labels


def reestimate(
    method: Classifier,
    model: Model,
    source: Source,
    spec: InputSpec,
    mesh: Mesh,
    *,
    batch_size: int,
    seed: int,
) -> Model:
    """The model with the statistics of a source's images in all BatchNorm layers; weights as were.

    AdaBN (Li et al. 2016, arXiv 1603.04779). One pass in batches of nearly equal size in a keyed
    order (a set may be sorted by class), each normalised by its own statistics as in training; over
    the batches they are put together exactly: the mean and variance of all images, between batches
    too (Wu & Johnson 2021, arXiv 2105.07576, sec. 3.1). Images are as at test time.

    Args:
        method: Whose modules they are.
        model: {"params", "model_state"}.
        source: Images; their labels are not looked at.
        spec: What the encoder takes.
        mesh: Devices to spread a batch over; it decides nothing that is computed.
        batch_size: Images that are normalised together at most.
        seed: Of the order.
    """
    count = len(source)
    order = permute(np.arange(count), epoch_key(seed, _ORDER), count).astype(np.int64)
    compute = _statistics(method, spec)
    weights, found = [], []
    for rows in np.array_split(order, -(-count // batch_size)):
        (images,) = source.take(rows).blocks(len(rows), spec.size)
        spread = parallel.put_batch if len(rows) % mesh.size == 0 else parallel.replicate
        found.append(jax.device_get(compute(model, spread(images, mesh))))
        weights.append(len(rows) / count)
    return {**model, "model_state": _merged(found, weights)}


def _statistics(method: Classifier, spec: InputSpec) -> Callable[[Model, jax.Array], PyTree]:
    """Compiles (model, images uint8 [n, H, W, C]) -> the model_state of these images alone."""
    # Without an axis the compiler sees the batch as a whole, however it is spread; at momentum 0
    # nothing of the earlier statistics survives.
    alone: dict[str, Any] = {"axis_name": None, "norm_groups": 1, "norm_momentum": 0.0}
    modules = {"encoder": method.encoder.clone(**alone)}
    if method.head is not None:
        modules["head"] = method.head.clone(**alone)

    @jax.jit
    def compute(model: Model, images: jax.Array) -> PyTree:
        x: Any = preprocess(images, size=spec.size, mean=spec.mean, std=spec.std)
        state = {}
        for name, module in modules.items():
            variables = {
                "params": model["params"][name],
                "batch_stats": model["model_state"][name],
            }
            x, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
            x = x["features"] if name == "encoder" else x
            state[name] = updated.get("batch_stats", {})
        return state

    return compute


def _merged(parts: Sequence[PyTree], weights: Sequence[float]) -> PyTree:
    """Statistics of all images from those of parts, whose shares of the images the weights are."""
    if set(parts[0]) != {"mean", "var"}:
        return {name: _merged([part[name] for part in parts], weights) for name in parts[0]}
    means, variances = (
        np.stack([np.asarray(part[name], np.float64) for part in parts]) for name in ("mean", "var")
    )
    mean = np.average(means, axis=0, weights=weights)
    variance = np.average(variances + (means - mean) ** 2, axis=0, weights=weights)
    dtype = parts[0]["mean"].dtype
    return {"mean": mean.astype(dtype), "var": variance.astype(dtype)}
