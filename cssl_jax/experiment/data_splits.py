"""Loads the data of an experiment: training and validation split, and their modality."""

from cssl_jax.checkpoint.run_meta import run_meta
from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources import base as sources
from cssl_jax.data.sources.base import Source
from cssl_jax.data.sources.classes import align_class_numbers, names_of
from cssl_jax.errors import UserError
from cssl_jax.methods.registry import method_entry
from cssl_jax.modalities.base import Modality
from cssl_jax.modalities.registry import modality_entry


def modality_of(config: Config) -> Modality:
    """The modality of a config's examples.

    Raises:
        UserError: There is no such modality.
    """
    return modality_entry(config.data.modality)


def input_spec(config: Config, train: Source) -> InputSpec:
    """Size and normalisation of the encoder's input, from the config or the training split.

    What the weights of ``train.init`` depend on is taken from that run.

    Raises:
        UserError: The config and the training split do not fit each other.
    """
    modality = modality_of(config)
    spec = modality.input_spec(config.data, train)
    if modality.inherited is None or not config.train.init:
        return spec
    other = run_meta(config.train.init)["input"]
    if other.get("kind") != spec.kind:
        return spec  # refused where the weights are read
    return modality.inherited(spec, modality.spec.from_dict(other))


def load_data(config: Config) -> tuple[Source, Source]:
    """Loads (training split, validation split): two sources, or a seeded split of one.

    Raises:
        UserError: The data cannot be read, the splits do not fit each other, or a method that needs
            labels has none.
    """
    train, validation = _load_splits(config)
    entry, loaded = method_entry(config.method.name), {"training": train, "validation": validation}
    if entry.labelled(config):
        for name, split in loaded.items():
            if split.labels is None or split.labels.max(initial=-1) < 0:
                raise UserError(
                    f"the {name} {modality_of(config).noun} have no labels; method "
                    f"{config.method.name} needs them"
                )
    for member in entry.members(config):
        if member not in getattr(train, "examples", {}):
            raise UserError(
                f"method {config.method.name} needs examples with {member!r}, and {train.name} has "
                f"none; give a table with such a column as data.source"
            )
    if entry.evaluation == "classifier":
        for name, split in loaded.items():
            _check_labels(
                split, config.classifier.num_classes, f"{name} {modality_of(config).noun}"
            )
        train = sources.labelled_fraction(
            train, config.classifier.label_fraction, seed=config.train.seed
        )
    return train, validation


def _check_labels(split: Source, num_classes: int, name: str) -> None:
    """Raises UserError for a label without an output; ``num_classes`` 0 is not known yet.

    ``name`` is a plural noun, such as "training images".
    """
    largest = 0 if split.labels is None else int(split.labels.max())
    if num_classes and largest >= num_classes:
        raise UserError(
            f"the {name} have labels up to {largest} and classifier.num_classes is "
            f"{num_classes}; number the classes from 0 to {num_classes - 1}, or give "
            f"--classifier.num-classes {largest + 1}"
        )


def load_whole(config: Config) -> Source:
    """Loads ``data.source`` without a split.

    Raises:
        UserError: The data cannot be read, or its classes do not fit data.classes.
    """
    source = modality_of(config).open(config.data.source, config.data)
    if not config.data.classes:
        return source
    return align_class_numbers(
        source,
        config.data.classes,
        option="data.source",
        reference="data.classes",
        unknown=config.data.unknown_classes,
    )


def _load_splits(config: Config) -> tuple[Source, Source]:
    modality, source = modality_of(config), load_whole(config)
    unknown = config.data.unknown_classes
    if config.data.validation_source:
        validation = modality.open(config.data.validation_source, config.data)
        if modality.layout(source) != modality.layout(validation):
            raise UserError(
                f"data.validation_source has {modality.layout(validation)} and data.source "
                f"{modality.layout(source)}; give both the same shape"
            )
        if source.labels is not None and source.labels.max(initial=-1) >= 0:
            validation = align_class_numbers(
                validation,
                names_of(source),
                option="data.validation_source",
                reference="data.source",
                unknown=unknown,
            )
        return source, validation
    seed = config.train.seed if config.data.split_seed is None else config.data.split_seed
    train, held_out = sources.split(
        len(source), config.data.validation_fraction, seed, sources.groups_of(source)
    )
    return source.take(train), source.take(held_out)


def target_config(config: Config, classes: tuple[str, ...] = ()) -> Config:
    """The config with the target domain in place of the source.

    Args:
        config: Config of the adaptation.
        classes: Class names that number the target's labels; () uses the target's own.
    """
    return config.replace(
        {
            "data.source": config.adapt.target,
            "data.validation_source": config.adapt.target_validation,
            "data.labels": config.adapt.target_labels,
            "data.classes": classes,
        }
    )


def load_target(config: Config) -> tuple[Source, Source]:
    """Loads (training split, validation split) of the target domain.

    Labels are in the target's own numbering, which training does not use; see ``Domains``.

    Raises:
        UserError: The data cannot be read, or the splits do not fit each other.
    """
    return _load_splits(target_config(config))


def check_target(config: Config, target: Source, spec: InputSpec) -> None:
    """Raises UserError if an encoder of the source's examples cannot take those of the target."""
    if misfit := modality_of(config).misfit(target, spec):
        raise UserError(
            f"adapt.target does not fit data.source: {misfit}; give examples of the same kind, see "
            "data.channels"
        )
