"""Section ``cost``: seconds and memory of a step of each method, beside SimCLR's."""

import argparse
import statistics
import time

from measuring import process
from measuring.report import cpu_environment


def run(options: argparse.Namespace) -> dict:
    """One row per method; SimCLR is measured first and last, to show how steady the machine is."""
    names = ["simclr", *[name for name in options.methods if name != "simclr"], "simclr"]
    kept = {
        name: getattr(options, name)
        for name in (
            *("recipe", "train", "test", "epochs", "batch_size", "size", "width", "head"),
            *("steps",),
        )
    }
    rows = []
    for name in names:
        found = process.call(
            "methods.cost.measure", environment=cpu_environment(), name=name, options=kept
        )
        rows.append({"method": name, **found})
        print(rows[-1], flush=True)
    return {"rows": rows}


def measure(name: str, options: dict) -> dict:
    """Compile seconds, seconds per step and peak memory of a method; in a fresh process."""
    import jax

    from cssl_jax.experiment import data_splits
    from cssl_jax.selfcheck.short_run import Trial
    from methods import settings

    config = settings.config_of(name, options)
    train, _ = data_splits.load_data(config)
    trial = Trial(config, train, jax.devices()[:1])
    step, state = trial.train_step(), trial.state()
    seconds = []
    for host_batch in trial.host_batches(0, options["steps"] + 1):
        start = time.perf_counter()
        state, metrics = step(state, trial.constants, host_batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    first, *others = seconds
    return {
        "first_step_seconds": first,
        "step_seconds": others,
        "passes": settings.passes(config),
        "peak_bytes": process.peak_bytes(),
    }


def table(section: dict) -> str:
    """Median step, its ratio to SimCLR's, the ratio of encoder passes, and peak memory."""
    rows = section["rows"]
    base = statistics.median(rows[0].get("step_seconds", [float("nan")]))
    lines = [f"{'method':<14}{'step, s':>10}{'/ SimCLR':>10}{'passes':>8}{'peak, GB':>10}"]
    for row in rows:
        if "failed" in row:
            lines.append(f"{row['method']:<14}{row['failed']}")
            continue
        step = statistics.median(row["step_seconds"])
        lines.append(
            f"{row['method']:<14}{step:>10.3f}{step / base:>10.2f}{row['passes'] / 6:>8.2f}"
            f"{row['peak_bytes'] / 1e9:>10.2f}"
        )
    return "\n".join(lines)
