"""Opens the trained encoder of a run folder."""

import contextlib
import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, overload

import jax
import numpy as np
import optax

from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import ArraySource, Source
from cssl_jax.data.sources.open import load_source
from cssl_jax.errors import UserError
from cssl_jax.evaluate.features import Model, encoder_variables, make_embed
from cssl_jax.evaluate.protocols.segmentation import stage_maps
from cssl_jax.evaluate.untrained import untrained_model
from cssl_jax.experiment import builders
from cssl_jax.files import existing_run
from cssl_jax.runtime import distributed, multihost, process, spmd


class Encoder:
    """Callable from images to features, with the weights of a run's checkpoint.

    Attributes:
        run: Folder of the run.
        config: Config of the run.
        mesh: Devices that batches are sharded over.
        spec: Size, channels and normalisation of the encoder's input.
        data: Fingerprints of the run's "train" and "validation" split.
        method: Method of the run, with the encoder module.
        step: Training step of the checkpoint.
        model: Variables {"params", "model_state"}, each with "encoder" and "projector".
        meta: Metadata saved with the checkpoint: config, data, versions, environment.
    """

    def __init__(
        self, run: str | pathlib.Path, *, batch_size: int = 0, checkpoint: str = "last"
    ) -> None:
        """Opens a run; arguments and errors as in ``load_encoder``."""
        distributed.start()
        if checkpoint not in ("last", "best"):
            raise UserError(f"checkpoint {checkpoint!r} is unknown; use 'last' or 'best'")
        self.run = existing_run(run)
        with _quiet(), Checkpoints(self.run, read_only=True) as checkpoints:
            meta = checkpoints.read_meta()
            self.meta: dict[str, Any] = meta
            self.config: Config = recipes.from_dict(meta["config"])
            # No more devices than there are here, so that a run of a larger machine opens. With
            # several processes 0 requests all devices.
            devices = (
                min(self.config.runtime.devices, jax.device_count()) * multihost.is_single_process()
            )
            self.mesh = process.make_mesh(devices)
            self.spec = InputSpec.from_dict(meta["input"])
            self.data: dict[str, str] = meta["data"]
            # BatchNorm groups matter to training only. One device divides every batch.
            self.method = builders.make_method(self.config, spmd.make_mesh(jax.devices()[:1]))
            step = checkpoints.best if checkpoint == "best" else checkpoints.latest
            assert step is not None  # read_meta() raises if there is no checkpoint
            self.step = step
            self.model: Model = checkpoints.restore_model(self._shapes(), self.mesh, self.step)
        self._batch_size = batch_size or self.config.evaluate.batch_size
        self._embed = make_embed(
            self.method.encoder,
            self.mesh,
            size=self.spec.size,
            mean=self.spec.mean,
            std=self.spec.std,
            batch_size=self._batch_size,
        )

    @overload
    def __call__(self, images: Any) -> np.ndarray: ...
    @overload
    def __call__(self, images: Any, layers: Sequence[int]) -> dict[str, np.ndarray]: ...
    def __call__(
        self, images: Any, layers: Sequence[int] | None = None
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Computes the features of images and, on request, the maps of the encoder's stages.

        Args:
            images: Images, uint8 [N, H, W, C] of any height and width.
            layers: Numbers of stages, from 1, such as (3, 4); None: features only.

        Returns:
            Features float32 [N, D]. With ``layers``, {"features": features, "stage3": maps float32
            [N, h, w, channels], ...}.

        Raises:
            UserError: The images have the wrong dtype, shape or channels, or a stage does not
                exist.
        """
        try:
            images = np.asarray(images)
        except ValueError as error:  # NumPy raises it for a list of images of different sizes
            raise UserError(
                "the images have several sizes; give one array uint8 [N, H, W, C], one image at a "
                "time as image[None], or a folder of images to .embed(path)"
            ) from error
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            raise UserError(
                f"images are {images.dtype} {images.shape}; give uint8 [N, H, W, C] in [0, 255]"
            )
        if images.shape[3] != self.spec.channels == images.shape[1]:
            raise UserError(
                f"images have shape {images.shape}, with the {images.shape[1]} channel(s) before "
                "height and width; give numpy.transpose(images, (0, 2, 3, 1))"
            )
        source = ArraySource("the array", images)
        features = self.embed(source)
        if layers is None:
            return features
        return {"features": features, **self._maps(source, layers)}

    def embed(self, source: Source | str | os.PathLike[str]) -> np.ndarray:
        """Computes features float32 [N, D] of all images of a source, in its order.

        Args:
            source: Source of N images, or a name or path that ``data.sources.open.load_source``
                takes, such as the path of a folder. Its images are read with the run's options.

        Raises:
            UserError: The source cannot be opened, or its images have the wrong channels.
        """
        if isinstance(source, np.ndarray):
            return self(source)
        if isinstance(source, str | os.PathLike):
            options = dataclasses.replace(self.config.data, labels="auto", in_memory=None)
            source = load_source(source, options)
        self.check_channels(source)
        return self._embed(encoder_variables(self.model), source)

    def check_channels(self, source: Source) -> None:
        """Checks that a source's images have the channels of the encoder's input.

        Raises:
            UserError: The number of channels differs.
        """
        if source.channels != self.spec.channels:
            raise UserError(
                f"{source.name}: images have {source.channels} channels; this encoder takes "
                f"{self.spec.channels}"
            )

    def untrained(self, images: Source) -> Model:
        """Builds the untrained baseline model with the BatchNorm statistics of these images.

        Args:
            images: Training images; labels are not read. See ``untrained.untrained_model``.
        """
        return untrained_model(
            images,
            method=self.method,
            spec=self.spec,
            mesh=self.mesh,
            seed=self.config.train.seed,
            batch_size=self.config.evaluate.batch_size,
        )

    def _maps(self, source: ArraySource, layers: Sequence[int]) -> dict[str, np.ndarray]:
        """Maps {"stage3": float32 [N, h, w, channels], ...} of these stages, on one process.

        Raises:
            UserError: A stage does not exist.
        """
        count = self.method.encoder.num_stages
        for layer in layers:
            if layer not in range(1, count + 1):
                raise UserError(f"layer {layer!r} is no stage; this encoder has 1 to {count}")
        apply = jax.jit(stage_maps(self.method.encoder, self.spec, tuple(layers)))
        variables = encoder_variables(self.model)
        rows = min(self._batch_size, len(source))
        stage_blocks: list[list[np.ndarray]] = [[] for _ in layers]
        for start in range(0, len(source), rows):
            block = source.images[start : start + rows]
            # Padded, so that the last block does not compile a separate program.
            padded = np.pad(block, [(0, rows - len(block)), (0, 0), (0, 0), (0, 0)])
            for blocks, maps in zip(stage_blocks, apply(variables, padded), strict=True):
                blocks.append(np.asarray(maps, np.float32)[: len(block)])
        return {f"stage{n}": np.concatenate(m) for n, m in zip(layers, stage_blocks, strict=True)}

    def _shapes(self) -> Model:
        """Shapes and dtypes of the model's variables, for restoring them."""
        state = builders.state_shapes(self.method, optax.identity(), self.spec)
        return state.evaluated(self.method)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses Orbax's warnings about the reading of a checkpoint, which users cannot act on."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def load_encoder(
    run: str | pathlib.Path, *, batch_size: int = 0, checkpoint: str = "last"
) -> Encoder:
    """Opens a run's encoder as a callable from uint8 images to float32 features.

    Args:
        run: Folder of the run, which may still be training.
        batch_size: Number of images embedded at once; 0: ``evaluate.batch_size`` of the run's
            config.
        checkpoint: "last", or "best" by online kNN (without labels: by view retrieval) on the half
            of the validation split that ranks checkpoints.

    Returns:
        The encoder, which computes features float32 [N, D] of images uint8 [N, H, W, C].

    Raises:
        UserError: The folder contains no run or no checkpoint yet, or ``checkpoint`` is unknown.
    """
    return Encoder(run, batch_size=batch_size, checkpoint=checkpoint)
