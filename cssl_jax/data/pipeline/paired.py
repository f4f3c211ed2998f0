"""Pipeline of paired batches: examples of two sources, each source in its own random order."""

import dataclasses
from collections.abc import Generator, Hashable
from typing import Any

import jax

from cssl_jax.data.pipeline.base import Batch, HostBatch, Pipeline
from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.sampler import Sampler

_PREFIX = "target_"  # of the names of the second source's arrays
_STREAM = 2**32  # greater than every seed: the two sources' draws are independent


def target_sampler(size: int, like: Sampler) -> Sampler:
    """Order of a second source, which has its own epochs.

    Args:
        size: Number of examples in the second source.
        like: Sampler of the first source, whose batch size and seed are used.
    """
    return Sampler(size, like.batch_size, like.seed + _STREAM)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairPipeline(Pipeline):
    """Runs two pipelines side by side; the fields of ``Pipeline`` are those of the first.

    A batch is the batch of the first pipeline, plus the views of the second as separate groups and
    "target_index". Labels of the second source are dropped.

    Attributes:
        first: Pipeline of the source whose epochs define the epochs of the run.
        second: Pipeline of the other source, with the same rows.
    """

    first: Pipeline
    second: Pipeline

    @classmethod
    def of(cls, first: Pipeline, second: Pipeline) -> "PairPipeline":
        """Builds the pair of two pipelines."""
        shared = {field.name: getattr(first, field.name) for field in dataclasses.fields(Pipeline)}
        groups = {**first.groups, **second.groups}
        return cls(**{**shared, "groups": groups}, first=first, second=second)

    @property
    def constants(self) -> HostBatch:
        """Constants of both pipelines; the names of the second's begin with "target_"."""
        return _join(self.first.constants, self.second.constants)

    @property
    def view_job(self) -> ViewJob:
        """Description of the first pipeline's views; the view log omits those of the second."""
        return self.first.view_job

    @property
    def kernels(self) -> str:
        """Library that makes the views of the first pipeline, "opencv" or "jax"."""
        return self.first.kernels

    @property
    def identity(self) -> Hashable:
        """Value that is equal for pairs whose ``make_batch`` computes the same."""
        return type(self), self.first.identity, self.second.identity

    def without_examples(self) -> "PairPipeline":
        """Copy for ``make_batch`` alone, which keeps no training data in memory."""
        return PairPipeline.of(self.first.without_examples(), self.second.without_examples())

    def with_kernels(self, kernels: str) -> "PairPipeline":
        """Copy in which both pipelines use other kernels."""
        first, second = (pipeline.with_kernels(kernels) for pipeline in (self.first, self.second))
        return PairPipeline.of(first, second)

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Yields the host batch of both pipelines for each step in [start, stop)."""
        streams = self.first.host_batches(start, stop), self.second.host_batches(start, stop)
        try:
            for first, second in zip(*streams, strict=True):
                yield _join(first, second)
        finally:  # both streams own threads, which end when the streams are closed
            for stream in streams:
                stream.close()

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """Builds the first pipeline's batch, with the views and indices of the second added."""
        first = self.first.make_batch(step, constants, host_batch)
        second = self.second.make_batch(step, _select_second(constants), _select_second(host_batch))
        batch = {**first, f"{_PREFIX}index": second["index"]}
        for name in ("views", "drawn"):
            if name in first or name in second:
                batch[name] = {**first.get(name, {}), **second.get(name, {})}
        return batch


def _join(first: HostBatch, second: HostBatch) -> HostBatch:
    return {**first, **{_PREFIX + name: value for name, value in second.items()}}


def _select_second(joined: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(_PREFIX): value
        for name, value in joined.items()
        if name.startswith(_PREFIX)
    }
