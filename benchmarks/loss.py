"""What the contrastive loss costs: beside peers, at scale, over devices, and in a training step.

Forward and backward of NT-Xent at d = 128; every figure from a process of its own. Prints a table
and its targets' verdicts for each section; writes ``benchmarks/results/loss.json``, or
``loss_DEVICE.json`` for what was measured on an accelerator.

    peers    ours in tiles and dense, dense JAX, optax and lightly, 512 to 8,192 pairs
    scale    tiles from 4,096 to 131,072 rows: is memory linear?
    devices  compiled memory on 8 simulated devices, dense and tiled
    joint    the largest batch of ResNet-50 at 224 px on one device

Command: python benchmarks/loss.py [--sections peers,scale] [--peer-python PATH]
lightly is measured by an interpreter that has it, --peer-python or CSSL_PEER_PYTHON.
"""

import argparse
import datetime
import json
import os
import pathlib

from loss_sections import devices, joint, peers, scale
from loss_sections.contenders import LABELS
from measuring import process
from measuring.report import machine, verdict, versions

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
BUSY = (
    "load average {load:.1f} on {cores} cores before: threads that wait for each other lose most, "
    "so compare times on an idle machine only"
)
PATHS = ("results", "peer_python")  # of this machine
SECTIONS = {"peers": peers, "scale": scale, "devices": devices, "joint": joint}


def main() -> None:
    options = parse()
    options.results.mkdir(parents=True, exist_ok=True)
    for name in options.sections:
        load = os.getloadavg()[0]
        section = {"load_before": load, **SECTIONS[name].run(options)}
        print(f"\n{name}\n{SECTIONS[name].table(section)}", flush=True)
        if load > 0.5:
            print(BUSY.format(load=load, cores=os.cpu_count()), flush=True)
        print()
        for found in section.get("targets", []):
            print(verdict(found), flush=True)
        save(options, name, section)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sections", type=names(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--contenders", type=names(LABELS), default=list(LABELS))
    parser.add_argument("--pairs", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--scale-pairs", type=int, nargs="+", default=[2**k for k in range(11, 17)])
    parser.add_argument("--device-pairs", type=int, nargs="+", default=list(devices.DENSE_BOUNDS))
    parser.add_argument("--devices", type=int, default=8, help="simulated")
    parser.add_argument("--rounds", type=int, default=3, help="of section peers")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timed runs a process")
    parser.add_argument("--timeout", type=float, default=300, help="seconds a process may take")
    parser.add_argument("--scale-timeout", type=float, default=1800, help="of section scale")
    parser.add_argument("--memory-limit", type=float, default=process.default_memory_limit(),
                        help="GB a process may hold")  # fmt: skip
    parser.add_argument("--peer-python", default=os.environ.get("CSSL_PEER_PYTHON", ""),
                        help="an interpreter that has lightly")  # fmt: skip
    parser.add_argument("--peer-imports", nargs="*", default=[],
                        help="modules that it must import first")  # fmt: skip
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="folder")
    joint.add_options(parser)
    return parser.parse_args()


def names(known: dict[str, object]):
    """A parser of names with commas between them."""

    def parsed(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return text.split(",")

    return parsed


def save(options: argparse.Namespace, name: str, section: dict) -> None:
    """Puts a section in its file, beside the sections that earlier runs left there."""
    device = section.get("device")
    path = options.results / (f"loss_{slug(device)}.json" if device else "loss.json")
    report = json.loads(path.read_text()) if path.exists() else {}
    report[name] = {
        "command": f"python benchmarks/loss.py --sections {name}",
        "options": {key: value for key, value in vars(options).items() if key not in PATHS},
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        **section,
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


def slug(device: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in device.lower()).strip("_")


if __name__ == "__main__":
    main()
