"""In a process of its own: which devices are here; see ``subprocesses.devices``."""

from collections.abc import Callable

import jax

from cssl_jax.runtime import process, subprocesses


def main(tell: Callable[..., None]) -> None:
    """Tells the first device's platform, kind and memory, and how many there are."""
    device = jax.local_devices()[0]
    tell(
        platform=device.platform,
        kind=device.device_kind,
        count=jax.local_device_count(),
        memory=process.device_memory(device),
    )


if __name__ == "__main__":
    subprocesses.serve(main)
