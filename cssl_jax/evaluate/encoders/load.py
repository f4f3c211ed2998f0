"""Opens the trained encoder of a run folder or of a file of weights."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, overload

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.checkpoint.run_meta import quiet
from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import ArraySource, Examples, Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders import foreign
from cssl_jax.evaluate.encoders.features import Model, encoder_variables, make_embed, padded
from cssl_jax.evaluate.encoders.untrained import untrained_model
from cssl_jax.evaluate.protocols.segmentation import stage_maps
from cssl_jax.experiment import builders, data_splits, train_state
from cssl_jax.files import existing_run
from cssl_jax.methods.base import Method
from cssl_jax.modalities.base import Modality
from cssl_jax.runtime import distributed, multihost, process, spmd
from cssl_jax.zoo.zoo_index import PREFIX, zoo_file


class Encoder:
    """Callable from examples, such as images, to features, with the weights of a checkpoint.

    Attributes:
        run: Folder of the run, or file of weights.
        config: Config of the run; of a file, the config that its weights imply.
        mesh: Devices that batches are sharded over.
        modality: Modality of the run's examples.
        spec: Size and normalisation of the encoder's input.
        data: Fingerprints of the run's "train" and "validation" split.
        method: Method of the run, with the encoder module.
        step: Training step of the checkpoint.
        model: Variables {"params", "model_state"}, each with "encoder" and "projector".
        meta: Metadata saved with the checkpoint: config, data, versions, environment.
    """

    run: pathlib.Path
    config: Config
    mesh: Mesh
    modality: Modality
    spec: InputSpec
    data: dict[str, str]
    method: Method
    step: int
    model: Model
    meta: dict[str, Any]

    def __init__(
        self, run: str | pathlib.Path, *, batch_size: int = 0, checkpoint: str = "last"
    ) -> None:
        """Opens a run or a file of weights; arguments and errors as in ``load_encoder``."""
        distributed.start()
        if str(run).startswith(PREFIX):
            run = zoo_file(str(run))
        if checkpoint not in ("last", "best"):
            raise UserError(f"checkpoint {checkpoint!r} is unknown; use 'last' or 'best'")
        if foreign.is_foreign(run):
            self._open_foreign(pathlib.Path(run).expanduser().absolute())
        else:
            self._open_run(existing_run(run), checkpoint)
        self._batch_size = batch_size or self.config.evaluate.batch_size
        self._embed = make_embed(
            self.method.encoder,
            self.mesh,
            self.spec,
            batch_size=self._batch_size,
        )

    def _open_foreign(self, path: pathlib.Path) -> None:
        """Sets the attributes from a file of weights of another library, on all devices."""
        opened = foreign.open_weights(path)
        self.run, self.meta, self.config = path, opened.meta, opened.config
        self.mesh = process.make_mesh(0)
        self.modality = data_splits.modality_of(self.config)
        self.spec, self.step = opened.spec, 0
        self.data = dict.fromkeys(("train", "validation"), "unknown")
        self.method = builders.make_method(self.config, spmd.make_mesh(jax.devices()[:1]))
        self.model = spmd.replicate(opened.model, self.mesh)

    def _open_run(self, run: pathlib.Path, checkpoint: str) -> None:
        """Sets the attributes from a run folder."""
        self.run = run
        with quiet(), Checkpoints(self.run, read_only=True) as checkpoints:
            meta = checkpoints.read_meta()
            self.meta = meta
            self.config = recipes.from_dict(meta["config"])
            # No more devices than there are here, so that a run of a larger machine opens. With
            # several processes 0 requests all devices.
            devices = (
                min(self.config.runtime.devices, jax.device_count()) * multihost.is_single_process()
            )
            self.mesh = process.make_mesh(devices)
            self.modality = data_splits.modality_of(self.config)
            self.spec = self.modality.spec.from_dict(meta["input"])
            self.data = meta["data"]
            # BatchNorm groups matter to training only. One device divides every batch.
            self.method = builders.make_method(self.config, spmd.make_mesh(jax.devices()[:1]))
            step = checkpoints.best if checkpoint == "best" else checkpoints.latest
            assert step is not None  # read_meta() raises if there is no checkpoint
            self.step = step
            self.model = checkpoints.restore_model(self._shapes(), self.mesh, self.step)

    @overload
    def __call__(self, images: Any) -> np.ndarray: ...
    @overload
    def __call__(self, images: Any, layers: Sequence[int]) -> dict[str, np.ndarray]: ...
    def __call__(
        self, images: Any, layers: Sequence[int] | None = None
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Computes the features of examples and, on request, the maps of the encoder's stages.

        Args:
            images: Images, uint8 [N, H, W, C] of any height and width; of another modality what
                its record takes, such as a tree of arrays [N, ...].
            layers: Numbers of stages, from 1, such as (3, 4); None: features only.

        Returns:
            Features float32 [N, D]. With ``layers``, {"features": features, "stage3": maps float32
            [N, h, w, channels], ...}.

        Raises:
            UserError: The examples have the wrong dtype, shape or channels, or a stage does not
                exist.
        """
        examples = self.modality.examples(images, self.spec)
        source = self.modality.to_arrays(ArraySource("the array", examples), self.spec)
        features = self.embed(source)
        if layers is None:
            return features
        return {"features": features, **self._maps(source, layers)}

    def embed(self, source: Source | str | os.PathLike[str]) -> np.ndarray:
        """Computes features float32 [N, D] of all examples of a source, in its order.

        Args:
            source: Source of N examples, or a name or path as for ``data.source``, such as the path
                of a folder of images. It is read with the run's options.

        Raises:
            UserError: The source cannot be opened, or its images have the wrong channels.
        """
        if isinstance(source, np.ndarray):
            return self(source)
        if isinstance(source, str | os.PathLike):
            source = self.modality.open(source, self.config.data.for_other_source())
        self.check_input(source)
        return self._embed(encoder_variables(self.model), source)

    @property
    def is_imported(self) -> bool:
        """True if the weights are those of another library, whose training data are not known."""
        return "imported" in self.meta

    def check_input(self, source: Source) -> None:
        """Checks that the encoder can take a source's examples.

        Raises:
            UserError: It cannot, for example because of another number of channels.
        """
        if misfit := self.modality.misfit(source, self.spec):
            raise UserError(f"{source.name}: {misfit}")

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

        def prepare(examples: Examples) -> Any:
            return self.modality.prepare(examples, self.spec)

        apply = jax.jit(stage_maps(self.method.encoder, prepare, tuple(layers)))
        variables = encoder_variables(self.model)
        rows = min(self._batch_size, len(source))
        stage_blocks: list[list[np.ndarray]] = [[] for _ in layers]
        for block in source.blocks(rows, **self.spec.reading):
            count = len(jax.tree.leaves(block)[0])
            # Padded, so that the last block does not compile a separate program.
            computed = apply(variables, padded(block, rows))
            for blocks, maps in zip(stage_blocks, computed, strict=True):
                blocks.append(np.asarray(maps, np.float32)[:count])
        return {f"stage{n}": np.concatenate(m) for n, m in zip(layers, stage_blocks, strict=True)}

    def _shapes(self) -> Model:
        """Shapes and dtypes of the model's variables, for restoring them."""
        state = train_state.state_shapes(self.method, optax.identity(), self.spec)
        return state.evaluated(self.method)


def load_encoder(
    run: str | pathlib.Path, *, batch_size: int = 0, checkpoint: str = "last"
) -> Encoder:
    """Opens a run's encoder as a callable from examples, such as uint8 images, to features.

    Args:
        run: Folder of the run, which may still be training; weights of another library, see
            ``foreign.open_weights``; or "zoo:NAME", an encoder that comes with the package.
        batch_size: Number of images embedded at once; 0: ``evaluate.batch_size`` of the run's
            config.
        checkpoint: "last", or "best" by online kNN (without labels: by view retrieval) on the half
            of the validation split that ranks checkpoints.

    Returns:
        The encoder, which computes features float32 [N, D] of images uint8 [N, H, W, C].

    Raises:
        UserError: The folder contains no run or no checkpoint yet, the file no encoder, or
            ``checkpoint`` is unknown.
    """
    return Encoder(run, batch_size=batch_size, checkpoint=checkpoint)
