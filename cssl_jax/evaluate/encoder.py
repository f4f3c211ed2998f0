"""A trained encoder, opened from a run folder, and its evaluation after the run."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, overload

import jax
import numpy as np
import optax

from cssl_jax import distributed, parallel, processes, recipes, runtime
from cssl_jax.config import Config, DataConfig, EvaluateConfig
from cssl_jax.data.loading import load_source
from cssl_jax.data.masks import MaskedSource
from cssl_jax.data.sources import ArraySource, Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate import leakage, protocols
from cssl_jax.evaluate.evaluator import Checkpoint, Evaluator, halves, labelled_part
from cssl_jax.evaluate.features import InputSpec, Model, encoder_variables, make_embed
from cssl_jax.evaluate.segment_run import load_masked_parts, segment
from cssl_jax.evaluate.segmentation import stage_maps
from cssl_jax.evaluate.untrained import untrained_model
from cssl_jax.files import existing_run, write_json
from cssl_jax.train import setup
from cssl_jax.train.checkpoints import Checkpoints


class Encoder:
    """Images to features, with the weights of a run's newest checkpoint.

    Attributes:
        config: Of the run.
        spec: What the encoder takes.
        data: Fingerprints of the run's "train" and "validation" part.
        step: Of the checkpoint.
        model: {"params", "model_state"}, each with "encoder" and "projector".
        meta: What was saved beside the checkpoint: config, data, versions, environment.
    """

    def __init__(
        self, run: str | pathlib.Path, *, batch_size: int = 0, checkpoint: str = "last"
    ) -> None:
        """Opens a run; arguments as for ``load_encoder``."""
        distributed.start()
        if checkpoint not in ("last", "best"):
            raise UserError(f"checkpoint {checkpoint!r} is unknown; use 'last' or 'best'")
        self.run = existing_run(run)
        with _quiet(), Checkpoints(self.run, read_only=True) as checkpoints:
            meta = checkpoints.meta()
            self.meta: dict[str, Any] = meta
            self.config: Config = recipes.from_dict(meta["config"])
            # A run from a larger machine opens on a smaller one.
            devices = min(self.config.runtime.devices, jax.device_count()) * processes.alone()
            self.mesh = runtime.make_mesh(devices)
            self.spec = InputSpec.from_dict(meta["input"])
            self.data: dict[str, str] = meta["data"]
            # BatchNorm groups matter to training only; one device divides every batch.
            self.method = setup.make_method(self.config, parallel.make_mesh(jax.devices()[:1]))
            step = checkpoints.best if checkpoint == "best" else checkpoints.latest
            assert step is not None  # meta() has found one
            self.step = step
            self.model: Model = checkpoints.restore_model(self._shapes(), self.mesh, self.step)
        self._rows = batch_size or self.config.evaluate.batch_size
        self._embed = make_embed(
            self.method.encoder,
            self.mesh,
            size=self.spec.size,
            mean=self.spec.mean,
            std=self.spec.std,
            batch_size=self._rows,
        )

    @overload
    def __call__(self, images: Any) -> np.ndarray: ...
    @overload
    def __call__(self, images: Any, layers: Sequence[int]) -> dict[str, np.ndarray]: ...
    def __call__(
        self, images: Any, layers: Sequence[int] | None = None
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Images to features, and to the maps of the encoder's stages.

        Args:
            images: uint8 [N, H, W, C], any height and width.
            layers: Stages from 1, such as (3, 4).

        Returns:
            Features float32 [N, D]. With layers, {"features": the same, "stage3": maps float32
            [N, h, w, channels], ...}.

        Raises:
            UserError: The images or a stage are none that the encoder takes.
        """
        try:
            images = np.asarray(images)
        except ValueError as error:  # NumPy's answer to images of several sizes
            raise UserError(
                "the images have several sizes; give one array uint8 [N, H, W, C], each image by "
                "itself as images[None], or a folder of them to .embed(path)"
            ) from error
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            raise UserError(
                f"images are {images.dtype} {images.shape}; give uint8 [N, H, W, C] in [0, 255]"
            )
        if images.shape[3] != self.spec.channels == images.shape[1]:
            raise UserError(
                f"images have shape {images.shape}, which is {images.shape[1]} channel(s) before "
                "height and width; give numpy.transpose(images, (0, 2, 3, 1))"
            )
        source = ArraySource("the array", images)
        features = self.embed(source)
        if layers is None:
            return features
        return {"features": features, **self._maps(source, layers)}

    def embed(self, source: Source | str | os.PathLike[str]) -> np.ndarray:
        """Images to features float32 [N, D], in the order of the source.

        Args:
            source: See ``data.loading.load_source``, or what that function takes, such as the path
                of a folder; its images are read as those of the run.

        Raises:
            UserError: It is no source, or its images are none that the encoder takes.
        """
        if isinstance(source, np.ndarray):
            return self(source)
        if isinstance(source, str | os.PathLike):
            options = dataclasses.replace(self.config.data, labels="auto", in_memory=None)
            source = load_source(source, options)
        self.check_channels(source)
        return self._embed(encoder_variables(self.model), source)

    def check_channels(self, source: Source) -> None:
        """Raises UserError where a source's images are none that the encoder takes."""
        if source.channels != self.spec.channels:
            raise UserError(
                f"{source.name}: images have {source.channels} channels; this encoder takes "
                f"{self.spec.channels}"
            )

    def untrained(self, images: Source) -> Model:
        """The untrained model to compare with, see ``untrained.untrained_model``."""
        return untrained_model(
            images,
            method=self.method,
            spec=self.spec,
            mesh=self.mesh,
            seed=self.config.train.seed,
            batch_size=self.config.evaluate.batch_size,
        )

    def _maps(self, source: ArraySource, layers: Sequence[int]) -> dict[str, np.ndarray]:
        """{"stage3": float32 [N, h, w, channels], ...} of these stages; on one process."""
        count = len(self.method.encoder.stage_sizes)
        for layer in layers:
            if layer not in range(1, count + 1):
                raise UserError(f"layer {layer!r} is no stage; this encoder has 1 to {count}")
        apply = jax.jit(stage_maps(self.method.encoder, self.spec, tuple(layers)))
        variables = encoder_variables(self.model)
        rows = min(self._rows, len(source))
        found: list[list[np.ndarray]] = [[] for _ in layers]
        for start in range(0, len(source), rows):
            block = source.images[start : start + rows]
            # Padded, so that the last block needs no program of its own.
            padded = np.pad(block, [(0, rows - len(block)), (0, 0), (0, 0), (0, 0)])
            for parts, maps in zip(found, apply(variables, padded), strict=True):
                parts.append(np.asarray(maps, np.float32)[: len(block)])
        return {f"stage{n}": np.concatenate(m) for n, m in zip(layers, found, strict=True)}

    def _shapes(self) -> Model:
        return setup.state_shapes(self.method, optax.identity(), self.spec).model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it, Orbax's warnings on how a checkpoint is read, no matter of the user, are mute."""
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
    """Opens a run's encoder: a callable from uint8 images to float32 features.

    Args:
        run: Folder of the run; it may still be training.
        batch_size: Images embedded at once; 0 is the config's.
        checkpoint: "last", or "best" by online kNN (without labels: by view retrieval)
            on the half of the validation part that ranks checkpoints.

    Raises:
        UserError: The folder holds no run, or no checkpoint yet.
    """
    return Encoder(run, batch_size=batch_size, checkpoint=checkpoint)


def evaluate_run(
    run: str | pathlib.Path,
    protocol: str | Sequence[str] | None = None,
    *,
    data: DataConfig | None = None,
    options: EvaluateConfig | None = None,
) -> dict[str, Any]:
    """Evaluates a run's last and best checkpoint, on the run's own data or on other.

    The figures go into the run's results.json: those on its own data in place of earlier ones of
    the same step, those on other data below "transfer" by the name of the source.

    Args:
        run: Folder of the run.
        protocol: One of ``protocols.PROTOCOLS``, or several; None is all of them. "segment", by
            itself, takes images with masks, see ``data.masks.load_masks``.
        data: Labelled images to fit and report on; None is the run's. With another source, a
            validation_source or labels that the run's own had are its own no longer.
        options: Of the protocols; None is the run's.

    Returns:
        ``Evaluator.report``'s figures (of "segment", ``segment_run.segment``'s), with "source",
        "validation_source" and "split".

    Raises:
        UserError: A protocol, the data or an option does not fit.
        RunError: A protocol changed the encoder.
    """
    runtime.join("evaluate")
    with processes.watched():
        return _evaluate_run(run, protocol, data, options)


def _evaluate_run(
    run: str | pathlib.Path,
    protocol: str | Sequence[str] | None,
    data: DataConfig | None,
    options: EvaluateConfig | None,
) -> dict[str, Any]:
    names = protocols.PROTOCOLS if protocol is None else protocol
    names = (names,) if isinstance(names, str) else tuple(names)
    protocols.check_names(names)  # before the run is opened
    processes.together(lambda: existing_run(run))
    encoder = load_encoder(run)
    own = encoder.config
    runtime.set_compile_cache(own.runtime.compile_cache)
    if protocols.SEGMENT in names:
        return _segment(encoder, data, options)

    def opened() -> tuple[Config, Source, Source, Evaluator]:
        config = _with(own, data, options)
        train, validation = setup.load_data(config)
        for part in (train, validation):
            encoder.check_channels(part)
        evaluator = Evaluator(
            config, encoder.method.encoder, encoder.spec, train, validation, encoder.mesh
        )
        if protocol is not None and not evaluator.labelled:
            raise UserError(
                f"protocol {names[0]!r} needs labels on both parts; training images have "
                f"{'some' if train.labels is not None else 'none'}, validation images "
                f"{'some' if validation.labels is not None else 'none'}"
            )
        return config, train, validation, evaluator

    config, train, validation, evaluator = processes.together(opened)
    _require_same(encoder, config, train, validation, {"protocols": names})
    last = Checkpoint(encoder.step, encoder.model)
    best = load_encoder(run, checkpoint="best")
    transfer = _images(config.data) != _images(own.data)
    figures = {
        "source": config.data.source,
        "validation_source": config.data.validation_source or "held out of source",
        "split": {"train": len(train), "validation": len(validation)},
        "notes": list(dict.fromkeys((*train.notes, *validation.notes))),
        **evaluator.report(
            last,
            last if best.step == last.step else Checkpoint(best.step, best.model),
            encoder.untrained,
            names,
            chose_best=not transfer or validation.fingerprint() == encoder.data["validation"],
            ranked=_ranked(own) if transfer else None,
        ),
    }
    if transfer:
        figures["leakage"]["pretraining"] = _leakage_of_pretraining(own, validation)
    processes.by_first(lambda: _save(encoder.run / "results.json", figures, transfer))
    return figures


def _segment(
    encoder: Encoder, data: DataConfig | None, options: EvaluateConfig | None
) -> dict[str, Any]:
    def opened() -> tuple[Config, MaskedSource, MaskedSource]:
        config = _with(encoder.config, data, options)
        return config, *load_masked_parts(config)

    config, train, validation = processes.together(opened)
    classes = [train.num_classes, validation.num_classes]
    also = {"protocols": (protocols.SEGMENT,), "classes of masks": classes}
    _require_same(encoder, config, train.images, validation.images, also)
    figures = {
        "source": config.data.source,
        "validation_source": config.data.validation_source or "held out of source",
        "split": {"train": len(train), "validation": len(validation)},
        **segment(encoder, config, train, validation),
    }
    figures["leakage"]["pretraining"] = _leakage_of_pretraining(encoder.config, validation.images)
    processes.by_first(lambda: _save(encoder.run / "results.json", figures, transfer=True))
    return figures


def _require_same(
    encoder: Encoder, config: Config, train: Source, validation: Source, also: dict[str, Any]
) -> None:
    """Makes sure that all processes evaluate the same."""
    processes.require_same(
        {
            "run": str(encoder.run),
            **runtime.facts(config),
            "training images": train.fingerprint(),
            "validation images": validation.fingerprint(),
            **also,
        }
    )


def _with(own: Config, data: DataConfig | None, options: EvaluateConfig | None) -> Config:
    """The run's config with other data and options."""
    data = data or own.data
    if data.source != own.data.source:
        # What names the run's own images or labels says nothing of another source's.
        if data.validation_source == own.data.validation_source:
            data = dataclasses.replace(data, validation_source="")
        if data.labels == own.data.labels:
            data = dataclasses.replace(data, labels="auto")
        if data.classes == own.data.classes:
            data = dataclasses.replace(data, classes=())
    return recipes.canonical(dataclasses.replace(own, data=data, evaluate=options or own.evaluate))


def _images(data: DataConfig) -> tuple:
    """What decides which images there are, and which are held out."""
    return (
        *(data.source, data.validation_source, data.validation_fraction, data.split_seed),
        *(data.min_side, data.max_pixels, data.image_key),
    )


def _ranked(own: Config) -> Source | None:
    """Images of the run's own data that ranked its checkpoints; None where they are gone."""
    try:
        validation = setup.load_data(own)[1]
    except UserError:
        return None
    return labelled_part(validation).take(halves(validation, own.train.seed)[0])


def _leakage_of_pretraining(own: Config, validation: Source) -> dict[str, Any]:
    learnt_from = "images that the encoder was pretrained on"
    try:
        return leakage.look(setup.load_data(own)[0], validation, learnt_from)
    except UserError as error:
        return {"words": f"leakage from the {learnt_from}: not looked for; {error}"}


def _save(path: pathlib.Path, figures: dict[str, Any], transfer: bool) -> None:
    """Puts figures into a finished run's results.json."""
    if not path.is_file():
        return
    known = json.loads(path.read_text())
    if transfer:
        sources = {**known.get("transfer", {}), figures["source"]: figures}
        write_json(path, {**known, "transfer": sources})
    elif known.get("step") == figures["step"]:
        write_json(path, _merged(known, figures, ("random_init", "pixels", "best", "last")))


def _merged(known: dict[str, Any], new: dict[str, Any], nested: tuple[str, ...]) -> dict[str, Any]:
    """New figures in place of old ones; those of other protocols stay."""
    deeper = {
        name: _merged(known.get(name, {}), value, nested)
        for name, value in new.items()
        if name in nested and known.get(name, {}).get("step") == value.get("step")
    }
    return {**known, **new, **deeper}
