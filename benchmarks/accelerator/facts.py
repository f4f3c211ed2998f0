"""Section ``facts``: what the device is and what it reaches: products, copies, launches."""

import os
import shutil
import subprocess
import time

import numpy as np

from accelerator.recorder import Recorder, seconds_per_call


def run(record: Recorder, *, small: bool) -> None:
    """Measures the ceilings that the other sections are read against."""
    import jax

    device = jax.devices()[0]
    from cssl_jax.runtime import doctor, process

    record.put(
        "device",
        kind=device.device_kind,
        platform=device.platform,
        memory_bytes=process.device_memory(device),
        cores=os.cpu_count(),
        versions=process.versions(),
        driver=_driver(),
    )
    record.attempt(
        "doctor", lambda: record.put("doctor", report=doctor.check_installation()[0].splitlines())
    )
    _products(record, 512 if small else 8192)
    record.attempt("copy", lambda: _copy(record, 2**22 if small else 2**31))
    record.attempt("host to device", lambda: _host_to_device(record, 64 if small else 512))
    record.attempt("kernel launches", lambda: _launches(record, 10 if small else 64))


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def _products(record: Recorder, side: int) -> None:
    """Square matrix products on random numbers, in TFLOP/s."""
    import jax
    import jax.numpy as jnp

    for dtype, precision in (("bfloat16", None), ("float32", None), ("float32", "highest")):
        name = f"product {dtype}" + (f" {precision}" if precision else "")

        def measure(dtype: str = dtype, precision: str | None = precision, name: str = name):
            x = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
            multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
            seconds = seconds_per_call(lambda: multiply(x, x), 0.5)
            record.put(name, side=side, tflop_per_s=2 * side**3 / seconds / 1e12)

        record.attempt(name, measure)


def _copy(record: Recorder, size: int) -> None:
    import jax
    import jax.numpy as jnp

    x = jnp.zeros(size // 4, jnp.uint32) + 1
    add = jax.jit(lambda a: a + 1)
    seconds = seconds_per_call(lambda: add(x), 0.5)
    record.put("copy", terabytes_per_s=2 * x.nbytes / seconds / 1e12)


def _host_to_device(record: Recorder, images: int) -> None:
    import jax

    host = np.ones((images, 224, 224, 3), np.uint8)
    jax.device_put(host).block_until_ready()
    start = time.perf_counter()
    for _ in range(5):
        jax.device_put(host).block_until_ready()
    seconds = (time.perf_counter() - start) / 5
    record.put("host to device, uint8", gigabytes_per_s=host.nbytes / seconds / 1e9)


def _launches(record: Recorder, count: int) -> None:
    """Microseconds per small dependent kernel, with CUDA graphs and without them."""
    import jax
    import jax.numpy as jnp

    def chain(x):
        for _ in range(count):
            x = x / (1 + jnp.sum(x * x))  # a reduction: cannot be fused with the next one
        return x

    x = jnp.ones(1024)
    gpu = jax.default_backend() == "gpu"
    for name, options in (("default", {}), ("no graphs", {"xla_gpu_enable_command_buffer": ""})):
        if options and not gpu:
            continue

        def measure(name: str = name, options: dict = options):
            compiled = jax.jit(chain).lower(x).compile(compiler_options=options)
            seconds = seconds_per_call(lambda: compiled(x), 0.3)
            record.put(f"kernel launches, {name}", us_per_link=1e6 * seconds / count, links=count)

        record.attempt(f"kernel launches, {name}", measure)
