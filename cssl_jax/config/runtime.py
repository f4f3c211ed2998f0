"""Of a config: the machine."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Where it runs; changes nothing that is computed, so it is no part of the config's hash.

    Attributes:
        backend: How the step is spread over devices: "shard_map" or "pmap" (one process only).
        devices: How many of this process's devices to use; 0 is all. With several processes, all.
        deterministic: Compile the step to the same bits at every execution, on GPUs too, where that
            costs time; CPUs and TPUs do so anyway.
        compile_cache: Folder of compiled programs; "" is ~/.cache/cssl_jax/compile, "off" is none.
    """

    backend: Literal["shard_map", "pmap"] = "shard_map"
    devices: int = 0
    deterministic: bool = False
    compile_cache: str = ""
