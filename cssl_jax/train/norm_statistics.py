"""BatchNorm's running statistics re-estimated on other images, without training (AdaBN)."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cssl_jax import parallel, processes
from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.data.sources import Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoder import Encoder, load_encoder
from cssl_jax.evaluate.evaluator import variables_hash
from cssl_jax.evaluate.features import InputSpec, Model, preprocess
from cssl_jax.files import write_text
from cssl_jax.methods.classifier import Classifier
from cssl_jax.recipes import to_json
from cssl_jax.train.checkpoints import Checkpoints
from cssl_jax.train.folder import has_checkpoint
from cssl_jax.train.state import TrainState

PyTree = Any
_ORIGIN = "norm_statistics"  # in a checkpoint's meta: of which classifier, and of which images
_ORDER = 3  # of the keyed orders of a seed: 0 to 2 split, rank and draw labels


def reestimated_run(encoder: Encoder, source: Source, run: pathlib.Path) -> Model:
    """``reestimate`` of a run's classifier, kept as the last checkpoint of a run of its own.

    Args:
        encoder: Of the classifier's run.
        source: Images; their labels are not looked at.
        run: Folder to write to; one that holds the checkpoint already is read.

    Raises:
        UserError: The folder holds the statistics of other images, or of another classifier.
    """
    origin = {
        "run": str(encoder.run),
        "step": encoder.step,
        "encoder_hash": variables_hash(encoder.model),
        "images": source.fingerprint(),
    }
    if processes.from_first(lambda: has_checkpoint(run)):
        kept = load_encoder(run)
        if not kept.meta[_ORIGIN].items() <= origin.items():
            raise UserError(
                f"{run} was made of {kept.meta[_ORIGIN]}, which is now {origin}; delete it, or use "
                "another --workdir"
            )
        return kept.model
    assert isinstance(encoder.method, Classifier)
    model = reestimate(
        encoder.method,
        encoder.model,
        source,
        encoder.spec,
        encoder.mesh,
        batch_size=encoder.config.train.batch_size,
        seed=encoder.config.train.seed,
    )

    def begin() -> None:
        run.mkdir(parents=True, exist_ok=True)
        write_text(run / "config.json", to_json(encoder.config))

    processes.by_first(begin)
    state = TrainState(jnp.int32(encoder.step), **model, method_state={}, opt_state={})
    with Checkpoints(run) as checkpoints:
        meta = {**encoder.meta, _ORIGIN: origin}
        checkpoints.save(parallel.replicate(state, encoder.mesh), meta, {})
    return model


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
    compute = _statistics(method, spec, mesh)
    weights, found = [], []
    for rows in np.array_split(order, -(-count // batch_size)):
        whole = -(-len(rows) // mesh.size) * mesh.size
        mine = np.resize(rows, whole)[parallel.process_rows(whole, mesh)]
        (images,) = source.take(mine).blocks(len(mine), spec.size)
        batch = parallel.put_batch(images, mesh)
        found.append(jax.device_get(compute(model, batch, len(rows))))
        weights.append(len(rows) / count)
    return {**model, "model_state": parallel.replicate(_merged(found, weights), mesh)}


def _statistics(
    method: Classifier, spec: InputSpec, mesh: Mesh
) -> Callable[[Model, jax.Array, int], PyTree]:
    """Compiles (model, images uint8 [n, H, W, C], count) -> the model_state of the first images.

    The images after ``count``, which make them divide over the mesh, take no part.
    """
    # Without an axis the compiler sees the batch as a whole, however it is spread; at momentum 0
    # nothing of the earlier statistics survives.
    alone: dict[str, Any] = {"axis_name": None, "norm_groups": 1, "norm_momentum": 0.0}
    modules = {"encoder": method.encoder.clone(**alone)}
    if method.head is not None:
        modules["head"] = method.head.clone(**alone)

    everywhere = NamedSharding(mesh, PartitionSpec())

    @functools.partial(jax.jit, static_argnums=2, out_shardings=everywhere)
    def compute(model: Model, images: jax.Array, count: int) -> PyTree:
        if count < len(images):
            images = jax.lax.with_sharding_constraint(images, everywhere)[:count]
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
