"""Config section runtime: devices and compilation."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Devices and compilation; no field changes a result, so none is in the config's hash.

    Attributes:
        backend: How the step is spread over devices: "shard_map", or "pmap" (one process only).
        devices: Number of this process's devices to use; 0 uses all. Several processes always use
            all.
        deterministic: Compile the step to the same bits at every execution on GPUs too, where that
            costs time; CPUs and TPUs always do.
        compile_cache: Folder of compiled programs; "" is ~/.cache/cssl_jax/compile, "off" keeps
            none.
    """

    backend: Literal["shard_map", "pmap"] = "shard_map"
    devices: int = 0
    deterministic: bool = False
    compile_cache: str = ""
