"""Pipelines of examples in arrays, resident on the devices or streamed: the device augments."""

from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.data.pipeline.base import Batch, HostBatch, Pipeline
from cssl_jax.data.sources.base import ArraySource, Examples
from cssl_jax.runtime import spmd


class ArrayPipeline(Pipeline):
    """Base class for examples in host arrays that are augmented on the device."""

    def _augmented(self, examples: Examples, host_batch: Any) -> Batch:
        drawn = self._sample(host_batch["key"])
        views = {
            name: self.modality.apply_views(examples, drawn[name], group, self.spec)
            for name, group in self.groups.items()
        }
        kept = {
            name: self.modality.kept(examples, drawn[name], group)
            for name, group in self.groups.items()
            if group.keep
        }
        return self._batch(views, kept, host_batch)

    @property
    def examples(self) -> Examples:
        """All training examples, tree of arrays [n, ...]."""
        assert isinstance(self.source, ArraySource)  # see ``choose``
        return self.source.examples


class ResidentPipeline(ArrayPipeline):
    """All examples are on every device; sampling and augmentation run in the compiled step."""

    constant_host_batch = True

    @property
    def constants(self) -> HostBatch:
        """Examples, tree of arrays [n, ...], and labels int32 [n] if the source has labels."""
        constants = {"examples": self.examples}
        if self.source.labels is not None:
            constants["labels"] = self.source.labels.astype(np.int32)
        return constants

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Yields the same row numbers, int32 [r], at every step."""
        for _ in range(start, stop):
            yield {"row": self.rows.astype(np.int32)}

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """Samples example indices, gathers their examples and augments them."""
        drawn = self.sampler.draw(step, host_batch["row"], jnp)
        index, key = jax.lax.optimization_barrier(drawn)
        rows = self._rows(constants, index)
        labels = {"label": rows["labels"]} if "labels" in rows else {}
        return self._augmented(rows["examples"], {"index": index, "key": key, **labels})

    def _rows(self, constants: Any, index: jax.Array) -> Any:
        return jax.tree.map(lambda x: x[index], constants)


class SplitResidentPipeline(ResidentPipeline):
    """Each device stores a part of the examples; every step fetches its rows from all devices."""

    split_constants = True

    def _rows(self, constants: Any, index: jax.Array) -> Any:
        return spmd.fetch_rows(constants, index)


class StreamPipeline(ArrayPipeline):
    """The host gathers the examples of each step, and the device augments them."""

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Yields examples, tree of arrays [r, ...], with their indices, keys and labels."""
        for step in range(start, stop):
            index, key = self.sampler.draw(step, self.rows)
            examples = jax.tree.map(lambda x, rows=index: x[rows], self.examples)
            yield self._labelled({"examples": examples, "index": index, "key": key})

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """Augments and normalizes the examples of a host batch."""
        return self._augmented(host_batch["examples"], host_batch)
