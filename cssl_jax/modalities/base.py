"""The record of a modality: pure functions from examples to views, inputs and baselines."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from cssl_jax.augment.base import Parameters as Parameters
from cssl_jax.augment.base import Policy
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.config.data import DataConfig
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import Examples, Source
from cssl_jax.errors import UserError

Views = Any  # one array [n, k, ...] or a tree of them
Inputs = Any  # one array [n, ...] or a tree of them, as an encoder takes it
SHOWN_SIDE = 48  # side in pixels of a large thumbnail: a multiple of 16, the codec's block
EXACT_SIDE = 32  # maximum side in pixels of a thumbnail that a report draws pixel by pixel


def all_parameters(examples: Examples, drawn: Parameters, group: SizedGroup) -> Parameters:
    """The sampled parameters of a group, of which ``ViewGroup.keep`` selects some."""
    return drawn


def accept(data: Any, policy: Any) -> None:
    """Refuses nothing."""


def no_examination(source: str, *options: Any) -> Any:
    """Refuses to examine or split a source."""
    raise UserError(f"{source}: its modality has no functions to examine and split a set")


def unchanged(source: Any, spec: Any) -> Any:
    """The source itself: its examples are arrays of numbers."""
    return source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """Features that need no encoder, which every evaluation compares the encoder with.

    Attributes:
        label: Description for tables, such as "raw pixels".
        features: Function from a source of N examples to features float32 [N, D]; None: ``fit``.
        fit: Training split -> such a function, for features with statistics; None: ``features``.
    """

    label: str
    features: Callable[[Source], np.ndarray] | None = None
    fit: Callable[[Source], Callable[[Source], np.ndarray]] | None = None

    def fitted_on(self, train: Source) -> Callable[[Source], np.ndarray]:
        """Function from a source of N examples to features, with the statistics of ``train``."""
        if self.fit is not None:
            return self.fit(train)
        assert self.features is not None, f"baseline {self.label!r} has neither features nor fit"
        return self.features


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Modality:
    """What the package asks of one kind of examples; everything else handles trees of arrays.

    Examples are a tree of arrays with one row per example: images are {"image": uint8 [n, H, W,
    C]}, sequences {"values": float32 [n, T, C], "length": int32 [n]}. The functions on examples
    and views run inside compiled functions. A record is compared by identity, so that compiled
    functions take it as a static argument.

    Attributes:
        noun: Plural noun for the examples in messages, such as "images".
        one: Singular noun for an example, such as "image".
        unit: Unit of the size of a view, such as "px".
        data: Class of the config section ``data``.
        augment: Class of the config section ``augment``.
        spec: Class of the encoder's input specification.
        open: (text of ``data.source``, section ``data``) -> source.
        examples: (what a user passes to an encoder, specification) -> examples. Raises UserError.
        input_spec: (section ``data``, training split) -> specification. Raises UserError.
        inherited: (specification, that of the run whose weights are taken) -> specification with
            what the weights depend on, such as the numbers of tokens. Raises UserError. None:
            weights depend on nothing but the config.
        to_arrays: (source, specification) -> source whose examples are arrays of numbers, as the
            functions below take them. Texts become tokens. Done on the host.
        from_arrays: (source, specification) -> source of examples as files have them, which
            baselines take; the inverse of ``to_arrays``.
        members: Source -> sources of the single examples that its rows consist of, those that are
            evaluated first. A row with a text, a positive and a negative has three. The search for
            copies looks into all.
        encoder_options: Section ``data`` -> further options of ``EncoderEntry.build``.
        layout: Source -> description of what two sources must have in common, so that baselines
            and encoders that are fitted on one apply to the other.
        misfit: (source, specification) -> reason why the encoder cannot take the examples; "" if
            it can.
        sample_views: (keys uint32 [n, 2], policy, number k of views, number of the first view) ->
            augmentation parameters, leaves [n, k, ...]. All random draws are derived from the keys.
        apply_views: (examples, parameters, group, specification) -> views as an encoder takes
            them, [n, k, ...].
        view_examples: (examples, parameters, group) -> the views as examples, [n, k, ...], which
            ``prepare`` turns into inputs. Label-free metrics embed them.
        prepare: (examples, specification) -> inputs of the encoder at test time, [n, ...].
        zeros: (specification, size, n, k) -> views of zeros, [n, k, ...].
        baselines: Baselines by their keys in results.json; the first one is compared in verdicts.
        show: Source -> (largest side in pixels, images uint8 [h, w, C], one per example), for
            reports.
        captions: Source -> one line of text per example, which reports show beside its image; None:
            its name or number.
        kept: (examples, parameters, group) -> parameters that ``ViewGroup.keep`` selects from.
        check: (section ``data``, section ``augment``) -> None. Raises UserError for values that
            cannot work.
        supervised: Specification -> config values by dotted name for training with labels: the
            same input, and a policy that keeps labels.
        reduced: Section ``data`` -> values of its fields for a check on small views.
        write: (source or None, section ``data``, number of examples, path without suffix) -> value
            of ``data.source``. Writes the examples of the source, or noise, to a file or folder.
        holds: Text of ``data.source`` -> True if it names examples of this modality, by the names
            of files and columns. Images are what no other modality holds.
        examine: (text of ``data.source``, options for reading images) -> what ``cssl-jax data
            check`` reports: ``data.cleaning.set_check.SetCheck`` or a class with its methods.
        divide: (text of ``data.source``, folder, options, fractions, seed) -> path and number of
            examples of every file that ``cssl-jax data split`` writes.
        encoded: Section ``data`` -> True if its source holds files that a host decodes, which
            ``cssl-jax plan`` does not open.
        assumed: (section ``data``, number of examples) -> (specification, shapes of all examples,
            or None where a host decodes them), without opening the source. None: the source is
            opened.
        images: True if the examples are images. Host backends, sheets and logs of views,
            segmentation and the search for near copies take images only.
    """

    noun: str
    one: str = "example"
    data: type[DataConfig]
    augment: type[Policy]
    spec: type[InputSpec]
    open: Callable[[str | os.PathLike[str], Any], Source]
    examples: Callable[[Any, Any], Examples]
    input_spec: Callable[[Any, Any], InputSpec]
    layout: Callable[[Any], str]
    misfit: Callable[[Any, Any], str]
    sample_views: Callable[[jax.Array, Any, int, int], Parameters]
    apply_views: Callable[[Examples, Parameters, SizedGroup, Any], Views]
    view_examples: Callable[[Examples, Parameters, SizedGroup], Examples]
    prepare: Callable[[Examples, Any], Inputs]
    zeros: Callable[[Any, int, int, int], Views]
    baselines: Mapping[str, Baseline]
    show: Callable[[Any], tuple[int, Iterator[np.ndarray]]]
    captions: Callable[[Any], list[str]] | None = None
    inherited: Callable[[Any, Any], InputSpec] | None = None
    to_arrays: Callable[[Any, Any], Any] = unchanged
    from_arrays: Callable[[Any, Any], Any] = unchanged
    members: Callable[[Any], list[Any]] = lambda source: [source]
    encoder_options: Callable[[Any], dict[str, Any]] = lambda data: {}
    kept: Callable[[Examples, Parameters, SizedGroup], Parameters] = all_parameters
    check: Callable[[Any, Any], None] = accept
    supervised: Callable[[Any], dict[str, Any]] = lambda spec: {}
    reduced: Callable[[Any], dict[str, Any]] = lambda data: {}
    write: Callable[[Any, Any, int, Any], str] | None = None
    holds: Callable[[str], bool] = lambda source: False
    examine: Callable[[str, Any], Any] = no_examination
    divide: Callable[..., list[tuple[pathlib.Path, int]]] = no_examination
    encoded: Callable[[Any], bool] = lambda data: False
    unit: str = "px"
    assumed: Callable[[Any, int], tuple[InputSpec, Examples | None]] | None = None
    images: bool = False


def require_images(modality: Modality, subject: str) -> None:
    """Raises UserError if the examples are no images; ``subject`` is what needs them, a noun."""
    if not modality.images:
        raise UserError(f"{subject} takes images only, and data.modality is of {modality.noun}")


def refuse_images(modality: Modality, subject: str) -> None:
    """Raises UserError if the examples are images; ``subject`` is what needs steps, a noun."""
    if modality.images:
        raise UserError(
            f"{subject} needs examples with steps, and data.modality is of {modality.noun}; give "
            "another method, or start from recipe series"
        )
