"""A trained encoder, opened from a run folder, and its evaluation after the run."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import optax

from cssl_jax import parallel, recipes, runtime
from cssl_jax.config import Config
from cssl_jax.data.sources import ArraySource, Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate import protocols
from cssl_jax.evaluate.evaluator import Evaluator
from cssl_jax.evaluate.features import InputSpec, Model, encoder_variables, make_embed
from cssl_jax.files import write_json
from cssl_jax.train import setup
from cssl_jax.train.checkpoints import Checkpoints


class Encoder:
    """Images to features, with the weights of a run's newest checkpoint.

    Attributes:
        config: Of the run.
        spec: What the encoder takes.
        step: Of the checkpoint.
        model: {"params", "model_state"}, each with "encoder" and "projector".
    """

    def __init__(
        self, run: str | pathlib.Path, *, batch_size: int = 0, checkpoint: str = "last"
    ) -> None:
        """Opens a run; arguments as for ``load_encoder``."""
        runtime.refuse_several_processes("evaluation")
        if checkpoint not in ("last", "best"):
            raise UserError(f"checkpoint {checkpoint!r} is unknown; use 'last' or 'best'")
        self.run = pathlib.Path(run).expanduser().absolute()
        if not (self.run / "config.json").is_file():
            raise UserError(
                f"{run} is no run folder: it has no config.json; pretrain into it first"
            )
        with Checkpoints(self.run, read_only=True) as checkpoints:
            meta = checkpoints.meta()
            self.config: Config = recipes.from_dict(meta["config"])
            # A run from a larger machine opens on a smaller one.
            devices = min(self.config.runtime.devices, jax.device_count())
            self.mesh = runtime.make_mesh(devices)
            self.spec = InputSpec.from_dict(meta["input"])
            # BatchNorm groups matter to training only; one device divides every batch.
            self.method = setup.make_method(self.config, parallel.make_mesh(jax.devices()[:1]))
            self.step = checkpoints.best if checkpoint == "best" else checkpoints.latest
            self.model: Model = checkpoints.restore_model(self._shapes(), self.mesh, self.step)
        self._embed = make_embed(
            self.method.encoder,
            self.mesh,
            size=self.spec.size,
            mean=self.spec.mean,
            std=self.spec.std,
            batch_size=batch_size or self.config.evaluate.batch_size,
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 images [N, H, W, C], any height and width, to features float32 [N, D]."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            raise UserError(
                f"images are {images.dtype} {images.shape}; give uint8 [N, H, W, C] in [0, 255]"
            )
        return self.embed(ArraySource("the array", images))

    def embed(self, source: Source) -> np.ndarray:
        """A source of N images (see ``data.loading.load_source``) to features float32 [N, D]."""
        if source.channels != self.spec.channels:
            raise UserError(
                f"{source.name}: images have {source.channels} channels; this encoder takes "
                f"{self.spec.channels}"
            )
        return self._embed(encoder_variables(self.model), source)

    def untrained(self) -> Model:
        """The model as it was before the first step."""
        state = setup.init_state(self.method, optax.identity(), self.spec, self.config.train.seed)
        return parallel.replicate(state.model, self.mesh)

    def _shapes(self) -> Model:
        init = setup.initializer(self.method, optax.identity(), self.spec)
        return jax.eval_shape(init, jax.random.key(0)).model


def load_encoder(
    run: str | pathlib.Path, *, batch_size: int = 0, checkpoint: str = "last"
) -> Encoder:
    """Opens a run's encoder: a callable from uint8 images to float32 features.

    Args:
        run: Folder of the run; it may still be training.
        batch_size: Images embedded at once; 0 is the config's.
        checkpoint: "last", or "best" by online kNN (without labels: by view retrieval).

    Raises:
        UserError: The folder holds no run, or no checkpoint yet.
    """
    return Encoder(run, batch_size=batch_size, checkpoint=checkpoint)


def evaluate_run(run: str | pathlib.Path, protocol: str | None = None) -> dict[str, Any]:
    """Evaluates a run's newest checkpoint on the run's own data.

    Where results.json is of the same step, its figures are replaced.

    Args:
        run: Folder of the run.
        protocol: "knn" or "linear"; None is both.

    Returns:
        The figures of the protocols, with "random_init", "pixels" and "step".
    """
    names = protocols.PROTOCOLS if protocol is None else (protocol,)
    protocols.check_names(names)  # before the run is opened
    encoder = load_encoder(run)
    runtime.set_compile_cache(encoder.config.runtime.compile_cache)
    train, validation = setup.load_data(encoder.config)
    evaluator = Evaluator(
        encoder.config, encoder.method.encoder, encoder.spec, train, validation, encoder.mesh
    )
    if protocol is not None and not evaluator.labelled:
        raise UserError(
            f"protocol {protocol!r} needs labels on both parts; training images have "
            f"{'some' if train.labels is not None else 'none'}, validation images "
            f"{'some' if validation.labels is not None else 'none'}"
        )
    judged = evaluator.judge(evaluator.features(encoder.model), names)
    figures = {
        "step": encoder.step,
        **evaluator.beside_floors(judged, encoder.untrained(), names),
    }
    path = encoder.run / "results.json"
    if path.is_file():
        known = json.loads(path.read_text())
        for name in ("random_init", "pixels"):
            figures[name] = {**known.get(name, {}), **figures[name]}
        if known.get("step") == encoder.step:
            write_json(path, {**known, **figures})
    return figures
