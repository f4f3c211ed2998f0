"""Batches of pairs: an example of one source with one of another, each drawn in its own order."""

import dataclasses
from collections.abc import Generator
from typing import Any

import jax

from cssl_jax.data.pipeline.base import Batch, HostBatch, Pipeline
from cssl_jax.data.pipeline.host_draws import Work
from cssl_jax.data.sampler import Sampler

_PREFIX = "target_"  # of what the second source feeds
_STREAM = 2**32  # seeds are below: the second source's draws are not the first's


def target_sampler(size: int, like: Sampler) -> Sampler:
    """The order of a second source of ``size`` examples, which goes on through its own epochs."""
    return Sampler(size, like.batch_size, like.seed + _STREAM)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairPipeline(Pipeline):
    """Two pipelines side by side; the fields of ``Pipeline`` are those of the first.

    A batch is the first's, with the views of the second as groups of their own and "target_index".
    Labels of the second source go nowhere.

    Attributes:
        first: Of the source whose epochs are the run's.
        second: Of the other, with the same rows.
    """

    first: Pipeline
    second: Pipeline

    @classmethod
    def of(cls, first: Pipeline, second: Pipeline) -> "PairPipeline":
        """The pair of two pipelines."""
        shared = {field.name: getattr(first, field.name) for field in dataclasses.fields(Pipeline)}
        views = {**first.views, **second.views}
        return cls(**{**shared, "views": views}, first=first, second=second)

    @property
    def constants(self) -> HostBatch:
        """Of both."""
        return _joined(self.first.constants, self.second.constants)

    @property
    def work(self) -> Work:
        """The first's: views of the second are not recorded."""
        return self.first.work

    @property
    def kernels(self) -> str:
        """The first's."""
        return self.first.kernels

    def with_kernels(self, kernels: str) -> "PairPipeline":
        """The pair of both with other kernels."""
        first, second = (part.with_kernels(kernels) for part in (self.first, self.second))
        return PairPipeline.of(first, second)

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Of both, step by step."""
        parts = self.first.host_batches(start, stop), self.second.host_batches(start, stop)
        try:
            for first, second in zip(*parts, strict=True):
                yield _joined(first, second)
        finally:
            for part in parts:
                part.close()

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """The first's batch with the views of the second."""
        own = self.first.make_batch(step, constants, host_batch)
        other = self.second.make_batch(step, _second(constants), _second(host_batch))
        views = {**own["views"], **other["views"]}
        return {**own, "views": views, f"{_PREFIX}index": other["index"]}


def _joined(first: HostBatch, second: HostBatch) -> HostBatch:
    return {**first, **{_PREFIX + name: value for name, value in second.items()}}


def _second(joined: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(_PREFIX): value
        for name, value in joined.items()
        if name.startswith(_PREFIX)
    }
