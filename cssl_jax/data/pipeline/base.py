"""Base class of input pipelines, and what it asks of a modality."""

import dataclasses
from collections.abc import Callable, Generator, Hashable
from typing import Any, ClassVar, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.base import Parameters
from cssl_jax.augment.view_group import CROP_BOX, Groups, SizedGroup, first_group
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import Examples, Source
from cssl_jax.errors import UserError

Batch = dict[str, Any]
HostBatch = dict[str, Any]


class ViewFunctions(Protocol):
    """Functions of a modality that turn examples into views; see ``modalities.base.Modality``."""

    @property
    def sample_views(self) -> Callable[[jax.Array, Any, int, int], Parameters]: ...  # noqa: D102
    @property
    def apply_views(self) -> Callable[[Examples, Parameters, SizedGroup, Any], Any]: ...  # noqa: D102
    @property
    def view_examples(self) -> Callable[[Examples, Parameters, SizedGroup], Examples]: ...  # noqa: D102
    @property
    def kept(self) -> Callable[[Examples, Parameters, SizedGroup], Parameters]: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Base class: turns example indices into batches of views.

    The subclasses differ in which work is done on the host and which on the device.

    Attributes:
        source: Training split.
        sampler: Order of the examples of ``source``.
        groups: View groups by name.
        spec: Size and normalisation of the encoder's input.
        modality: Functions that turn examples into views.
        rows: int [r], rows of the global batch that this process provides.
        constant_host_batch: True if every step has the same host batch, so that one transfer to the
            devices serves all steps.
        split_constants: True if each device holds a part of the constants, not a copy; see
            ``spmd.put_constants``.
    """

    source: Source
    sampler: Sampler
    groups: Groups
    spec: InputSpec
    modality: ViewFunctions
    rows: np.ndarray
    constant_host_batch: ClassVar[bool] = False
    split_constants: ClassVar[bool] = False

    @property
    def constants(self) -> HostBatch:
        """Arrays that are put on the devices once, before the first step."""
        return {}

    @property
    def first_group(self) -> SizedGroup:
        """The group that stands for all where only one can be used; "main" in SimCLR."""
        return first_group(self.groups)

    @property
    def view_job(self) -> ViewJob:
        """Description of the views, for the host backends and for code that repeats the draws."""
        source: Any = self.source  # only images have view jobs
        return ViewJob(source=source, sampler=self.sampler, groups=self.groups, rows=self.rows)

    @property
    def identity(self) -> Hashable:
        """Value that is equal for pipelines whose ``make_batch`` computes the same."""
        names = {field.name for field in dataclasses.fields(self)} - {"source", "groups", "rows"}
        facts = tuple((name, getattr(self, name)) for name in sorted(names))
        return type(self), tuple(self.groups.items()), facts

    def without_examples(self) -> "Pipeline":
        """Copy for ``make_batch`` alone, which keeps no training data in memory."""
        return dataclasses.replace(self, source=cast(Source, None), rows=np.zeros(0, int))

    @property
    def kernels(self) -> str:
        """Library that makes the views, "opencv" or "jax"; always "jax" in the compiled step."""
        return "jax"

    def with_kernels(self, kernels: str) -> "Pipeline":
        """Copy whose host makes views by ``kernels``; unchanged if the device makes the views."""
        return self

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Yields the host batch of each step in [start, stop), with this process's rows."""
        raise NotImplementedError

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """Builds the batch of this device's rows; runs inside the compiled step.

        Args:
            step: int32 scalar, step number.
            constants: ``constants`` on the device.
            host_batch: This device's rows r of an item of ``host_batches``.

        Returns:
            views: tree of arrays [r, k, ...] per group, of images a normalized float [r, k, size,
            size, C]; index int32 [r]; key uint32 [r, 2]; mask bool [r]; label int32 [r] if the
            source has labels; and drawn, if a group keeps parameters: [r, k, ...] by group and
            name. The crop box of an image has top, left, height and width as fractions of its
            height and width.

        Raises:
            UserError: A group keeps a parameter that is not sampled.
        """
        raise NotImplementedError

    def _labelled(self, host_batch: HostBatch) -> HostBatch:
        if self.source.labels is None:
            return host_batch
        return {**host_batch, "label": self.source.labels[host_batch["index"]].astype(np.int32)}

    def _sample(self, key: jax.Array) -> dict[str, Parameters]:
        sample = self.modality.sample_views
        drawn = {
            name: sample(key, group.policy, group.count, group.first)
            for name, group in self.groups.items()
        }
        # Without the barrier XLA fuses the draws into their consumers and repeats them per pixel.
        separate: dict[str, Parameters] = jax.lax.optimization_barrier(drawn)
        return separate

    def _batch(self, views: dict[str, Any], drawn: dict[str, Parameters], host_batch: Any) -> Batch:
        batch = {name: host_batch[name] for name in ("index", "key", "label") if name in host_batch}
        batch["views"] = views
        batch["mask"] = jnp.ones(host_batch["index"].shape, bool)
        if any(group.keep for group in self.groups.values()):
            batch["drawn"] = {
                name: _kept(group, drawn[name]) for name, group in self.groups.items() if group.keep
            }
        return batch


def _kept(group: SizedGroup, drawn: Parameters) -> Parameters:
    if unknown := set(group.keep) - drawn.keys():
        raise UserError(
            f"a view group keeps {', '.join(sorted(unknown))}; keep some of "
            f"{', '.join(sorted({*drawn, CROP_BOX}))}"
        )
    return {name: drawn[name] for name in group.keep}
