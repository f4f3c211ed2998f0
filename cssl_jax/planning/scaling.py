"""Table of a step's cost for several numbers of devices, by closed formulas alone."""

import dataclasses
import math
from collections.abc import Sequence

from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.planning import formulas
from cssl_jax.planning.planner import cost_of
from cssl_jax.planning.shapes import DataShapes, data_shapes


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Rates that one device is assumed to sustain; the defaults are those of no real device.

    Attributes:
        teraflops: Operations per second that the encoder attains on a device, in 10^12.
        gigabytes: Bytes per second that a device sends over the network, in 10^9.
        microseconds: Network latency of one message, in microseconds.
        host_devices: Number of devices per host.
    """

    teraflops: float = 100.0
    gigabytes: float = 25.0
    microseconds: float = 5.0
    host_devices: int = 8

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            if not 0 < value < math.inf:
                raise UserError(f"{field} is {value}; give a positive number")


@dataclasses.dataclass(frozen=True)
class Row:
    """Cost of a step for one number of devices.

    Attributes:
        devices: Number of devices that a batch is split over.
        batch: Global batch size in examples.
        cost: Operations and bytes of a step on one device.
        compute: Seconds that a device computes.
        wires: Seconds that sending the device's bytes takes.
        waits: Seconds of network latency in BatchNorm: layers wait for averages over devices.
    """

    devices: int
    batch: int
    cost: formulas.Cost
    compute: float
    wires: float
    waits: float

    @property
    def step(self) -> float:
        """Seconds per step if compute, traffic and waits do not overlap."""
        return self.compute + self.wires + self.waits


@dataclasses.dataclass(frozen=True)
class ScalingPlan:
    """Cost of a step for several numbers of devices; its text is a Markdown table.

    Attributes:
        rows: Cost per number of devices.
        hardware: Assumed rates of a device.
    """

    rows: tuple[Row, ...]
    hardware: Hardware

    def __str__(self) -> str:
        return format_table(self.rows, self.hardware)


def plan_scaling(
    config: Config,
    devices: Sequence[int],
    *,
    per_device: int = 0,
    hardware: Hardware | None = None,
) -> ScalingPlan:
    """Computes the cost of a step for several numbers of devices, by formulas alone.

    Nothing is compiled, and no device is used.

    Args:
        config: Config of the run; see ``recipes.load``.
        devices: Numbers of devices that share a batch.
        per_device: Examples per device; 0 divides the config's batch over the devices.
        hardware: Assumed rates of a device; None: the defaults of ``Hardware``.

    Raises:
        UserError: There is no number of devices, or a batch does not divide over one of them.

    Example:
        >>> import cssl_jax
        >>> planned = plan_scaling(cssl_jax.load_recipe("imagenet_resnet50"), [32, 64])
        >>> [(row.devices, row.batch) for row in planned.rows]
        [(32, 4096), (64, 4096)]
    """
    if not devices:
        raise UserError("--devices is empty; give one number, or several for a table")
    hardware = hardware or Hardware()
    given = data_shapes(config, None, max(devices))
    return ScalingPlan(tuple(rows(config, given, devices, per_device, hardware)), hardware)


def rows(
    config: Config, given: DataShapes, devices: Sequence[int], per_device: int, hardware: Hardware
) -> list[Row]:
    """Cost of a step for each number of devices.

    Args:
        config: Config of the run.
        given: Shapes and pipeline of the run's data.
        devices: Numbers of devices, one per row.
        per_device: Examples per device; 0 divides the recipe's batch over the devices.
        hardware: Assumed rates of a device.

    Raises:
        UserError: A batch does not divide over the devices.
    """
    table_rows = []
    for count in devices:
        batch = per_device * count if per_device else config.train.batch_size
        if count < 1 or batch % count:
            raise UserError(
                f"batch {batch} does not divide over {count} devices; omit that number, or "
                "give --per-device"
            )
        cost = cost_of(config.replace({"train.batch_size": batch}), count, given)
        # An average travels up and down a binary tree of the devices that share a group.
        hops = 2 * math.ceil(math.log2(cost.norm_devices)) if cost.norm_devices > 1 else 0
        table_rows.append(
            Row(
                count,
                batch,
                cost,
                compute=cost.flops / (1e12 * hardware.teraflops),
                wires=cost.sent(count) / (1e9 * hardware.gigabytes),
                waits=cost.waits * hops * 1e-6 * hardware.microseconds,
            )
        )
    return table_rows


def format_table(found: Sequence[Row], hardware: Hardware) -> str:
    """The rows as a Markdown table, with times in milliseconds."""
    head = (
        *("devices", "batch", "per device", "TFLOP", "loss", "gathered", "averaged", "sent"),
        *("compute", "network", "latency", "step", "efficiency", "views/s per host"),
    )
    first = found[0]
    lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    for row in found:
        cost = row.cost
        # Examples per device and second; efficiency is relative to the first row.
        rate = row.batch / row.devices / row.step
        efficiency = rate / (first.batch / first.devices / first.step)
        views = 2 * rate * min(row.devices, hardware.host_devices)
        cells = (
            f"{row.devices:,}",
            f"{row.batch:,}",
            f"{row.batch // row.devices:,}",
            f"{cost.flops / 1e12:.3g}",
            f"{100 * cost.loss_flops / cost.flops:.2f} %",
            f"{cost.all_gather / 1e6:.1f} MB",
            f"{(cost.all_reduce + cost.norm_all_reduce) / 1e6:.0f} MB",
            f"{cost.sent(row.devices) / 1e6:.0f} MB",
            f"{1e3 * row.compute:.1f}",
            f"{1e3 * row.wires:.1f}",
            f"{1e3 * row.waits:.1f}",
            f"{1e3 * row.step:.1f}",
            f"{100 * efficiency:.0f} %",
            f"{views:,.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
