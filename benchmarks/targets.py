"""What every ImageNet and CIFAR-10 recipe needs on TPUs and GPUs that are not here, by compiling.

Each recipe's own train step, in bfloat16, is compiled for each target: memory, operations, bytes
and collectives per device, and the lower bounds that follow from the chips' stated rates. Nothing
is run. Writes ``benchmarks/results/targets.json``, in which earlier rows stay.

Command: python benchmarks/targets.py [--recipes imagenet_resnet50] [--targets tpu:v5e:4x8]
"""

import argparse
import datetime
import json
import pathlib
from typing import Any

from measuring.report import machine, versions

from cssl_jax import recipes
from cssl_jax.errors import RunError, UserError
from cssl_jax.planning.targets.target_plan import TargetPlan, plan_target

RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "targets.json"
RECIPES = ("imagenet_resnet50", "imagenet_resnet50_small", "cifar10_resnet18", "cifar10_resnet50")
TARGETS = ("tpu:v5e:2x4", "tpu:v5e:4x8", "tpu:v5e:16x16", "tpu:v4:4x4x2", "cuda:h100")


def main() -> None:
    """Compiles what the options name, one after another, and saves each at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--batch", type=int, default=0, help="0: that of the recipe")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds per compilation")
    options = parser.parse_args()
    for name in options.recipes:
        for target in options.targets:
            report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            label = f"{name} at batch {options.batch}" if options.batch else name
            row = measure(name, target, options.batch, options.timeout)
            report.setdefault(label, {})[target] = row
            RESULTS.write_text(json.dumps(report, indent=1) + "\n")
            print(label, target, json.dumps(row)[:300], flush=True)


def measure(name: str, target: str, batch: int, timeout: float) -> dict:
    """One row: what the plan says, or why there is none."""
    overrides: dict[str, Any] = {"model.dtype": "bfloat16"}
    if batch:
        overrides["train.batch_size"] = batch
    config = recipes.load(name)
    if not config.data.size:
        overrides["data.size"] = 32  # of CIFAR-10, whose file is not needed
    row = {
        "command": f"cssl-jax plan {name} --target {target} "
        + " ".join(f"--{field.replace('_', '-')} {value}" for field, value in overrides.items()),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "batch_size": batch or config.train.batch_size,
    }
    try:
        plan = plan_target(recipes.override(config, overrides), target, timeout=timeout)
    except (UserError, RunError) as error:
        return {**row, "failed": str(error)}
    return {**row, **summary(plan)}


def summary(plan: TargetPlan) -> dict:
    """The plan's values, ready for JSON: bytes, operations, seconds."""
    return {
        "chips": plan.target.chips,
        "held": plan.held,
        "memory": plan.memory,
        "bounds": plan.bounds,
        "views_per_second": plan.views_per_second,
        "compiled": plan.compiled,
    }


if __name__ == "__main__":
    main()
