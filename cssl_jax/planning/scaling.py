"""How a step's cost changes with the number of devices: a table by formulas alone."""

import dataclasses
import math
from collections.abc import Sequence

from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.planning import formulas
from cssl_jax.planning.planner import cost_of
from cssl_jax.planning.shapes import Input


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What one device is assumed to sustain; no figure of any device is built in.

    Attributes:
        teraflops: 10^12 operations a second, as this encoder attains them.
        gigabytes: 10^9 bytes a second that a device sends.
        microseconds: Until a message of no length arrives.
        host_devices: Devices of one host.
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
    """One number of devices.

    Attributes:
        devices: That share a batch.
        batch: Global.
        cost: Of a step on one device.
        compute: Seconds of its operations.
        wires: Seconds that its bytes take.
        waits: Seconds in which layers wait for BatchNorm's averages.
    """

    devices: int
    batch: int
    cost: formulas.Cost
    compute: float
    wires: float
    waits: float

    @property
    def step(self) -> float:
        """Seconds, nothing overlapped."""
        return self.compute + self.wires + self.waits


def rows(
    config: Config, given: Input, devices: Sequence[int], per_device: int, hardware: Hardware
) -> list[Row]:
    """The cost of a step for each number of devices.

    Args:
        config: The run.
        given: Its data.
        devices: Numbers of them.
        per_device: Examples on each; 0 divides the recipe's batch.
        hardware: Assumed.

    Raises:
        UserError: A batch does not divide over the devices.
    """
    found = []
    for count in devices:
        batch = per_device * count if per_device else config.train.batch_size
        if count < 1 or batch % count:
            raise UserError(
                f"batch {batch} does not divide over {count} devices; leave that number out, or "
                "give --per-device"
            )
        train = dataclasses.replace(config.train, batch_size=batch)
        cost = cost_of(dataclasses.replace(config, train=train), count, given)
        hops = 2 * math.ceil(math.log2(cost.norm_devices)) if cost.norm_devices > 1 else 0
        found.append(
            Row(
                count,
                batch,
                cost,
                compute=cost.flops / (1e12 * hardware.teraflops),
                wires=cost.sent(count) / (1e9 * hardware.gigabytes),
                waits=cost.waits * hops * 1e-6 * hardware.microseconds,
            )
        )
    return found


def table(found: Sequence[Row], hardware: Hardware) -> str:
    """The rows as Markdown; times in milliseconds."""
    head = (
        *("devices", "batch", "a device", "TFLOP", "loss", "gathered", "averaged", "sent"),
        *("compute", "wires", "waits", "step", "efficiency", "views/s a host"),
    )
    first = found[0]
    lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    for row in found:
        cost = row.cost
        # Examples a device and second, against the first row.
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
