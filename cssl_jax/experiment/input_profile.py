"""The input of a recipe, measured stage by stage on this machine."""

import dataclasses

import jax
import numpy as np

from cssl_jax import recipes
from cssl_jax.augment.view_group import count_views
from cssl_jax.config import Config
from cssl_jax.data.profile import measure
from cssl_jax.data.profile import result as profile_result
from cssl_jax.errors import UserError
from cssl_jax.experiment import data_splits, input_pipeline
from cssl_jax.modalities.base import require_images
from cssl_jax.runtime import multihost, process, spmd

# Enough to keep the device busy; on a CPU a batch of photos takes a second already.
MOST_EXAMPLES = {"cpu": 32}
MOST_ON_ACCELERATOR = 256


@dataclasses.dataclass(frozen=True)
class InputReport:
    """What ``cssl-jax bench-input`` prints.

    Attributes:
        source: As the config names it.
        reason: The pipeline's name and why it was chosen.
        batch_size: Of the recipe.
        measured: With all metrics.
    """

    source: str
    reason: str
    batch_size: int
    measured: profile_result.Measurement

    def __str__(self) -> str:
        pipeline, whole = self.measured.pipeline, self.measured.whole
        views = " and ".join(
            f"{group.count} views of {group.size} px each" for group in pipeline.groups.values()
        )
        step = self.batch_size * count_views(pipeline.groups) * whole
        words = profile_result.verdict(self.measured)
        return (
            f"input     {self.source}: {self.reason}\n"
            f"measured  batches of {len(pipeline.rows)} examples, {views}\n\n"
            f"{profile_result.format_table(self.measured)}\n"
            f"A batch of {self.batch_size} comes every {1000 * step:,.1f} ms: a step that takes "
            f"longer never waits.\n\n{words[0].upper()}{words[1:]}."
        )


def bench_input(config: Config, *, seconds: float = 3.0) -> InputReport:
    """Measures reading, decoding, cropping, augmentation, transfer and the whole apart.

    Args:
        config: The run; see ``recipes.load``. Its data, placement, policy and devices count.
        seconds: Of each measurement, of which there are up to eight.

    Raises:
        UserError: The config, the data and the devices do not fit each other.
        RunError: An image has changed since it was scanned.
    """
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds {seconds:g}; give more than 0, at most 3600")
    if not multihost.is_single_process():
        raise UserError(
            f"bench-input measures one host's input, not that of {jax.process_count()} processes; "
            "start it by itself"
        )
    config = recipes.canonical(config)
    require_images(data_splits.modality_of(config), "bench-input")
    process.set_compile_cache(config.runtime.compile_cache)
    mesh, batch_size = process.make_mesh(config.runtime.devices), config.train.batch_size
    spmd.per_device_batch(batch_size, mesh)
    most = MOST_EXAMPLES.get(mesh.devices.flat[0].platform, MOST_ON_ACCELERATOR)
    examples = min(batch_size, max(most // mesh.size, 1) * mesh.size)
    pipeline, reason = input_pipeline.pipeline_alone(config, mesh, np.arange(examples))
    measured = measure.measure(pipeline, mesh, backend=config.runtime.backend, seconds=seconds)
    return InputReport(config.data.source, reason, batch_size, measured)
