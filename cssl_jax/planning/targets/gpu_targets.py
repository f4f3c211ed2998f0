"""GPU descriptions (GpuTargetConfig) with which XLA compiles on a machine without a GPU."""

_TEMPLATE = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {optin}
  cuda_compute_capability {{ major: {major} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""
_HOPPER = {
    "shared": 233472, "optin": 232448, "cores": 132, "fpus": 128, "cache": 52428800,
    "clock": 1.98, "major": 9,
}  # fmt: skip
_AMPERE = {
    "shared": 167936, "optin": 166912, "cores": 108, "fpus": 64, "cache": 41943040,
    "clock": 1.41, "major": 8,
}  # fmt: skip
TARGET_CONFIGS = {
    "h100": _TEMPLATE.format(
        **_HOPPER, bandwidth=3352320000000, memory=84929347584, name="NVIDIA H100 80GB HBM3"
    ),
    "h200": _TEMPLATE.format(
        **_HOPPER, bandwidth=4800000000000, memory=150754820096, name="NVIDIA H200"
    ),
    "a100": _TEMPLATE.format(
        **_AMPERE, bandwidth=2039000000000, memory=84974239744, name="NVIDIA A100-SXM4-80GB"
    ),
}
