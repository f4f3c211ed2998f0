"""Child process that reports this machine's devices; see ``subprocesses.devices``."""

from collections.abc import Callable

import jax

from cssl_jax.runtime import process, subprocesses


def main(report: Callable[..., None]) -> None:
    """Reports the first device's platform, kind and memory, and the number of devices."""
    device = jax.local_devices()[0]
    report(
        platform=device.platform,
        kind=device.device_kind,
        count=jax.local_device_count(),
        memory=process.device_memory(device),
    )


if __name__ == "__main__":
    subprocesses.serve(main)
