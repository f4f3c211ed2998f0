"""Puts the measurements of one or more runs of the kit into ``benchmarks/results/``.

Command: python benchmarks/accelerator/keep.py OUT [OUT ...]

Writes ``benchmarks/results/accelerator_<device>.json``: section -> measurement -> values, with the
date and the device. A measurement that a later run repeats takes the earlier one's place; one that
only failed or was skipped does not.
"""

import argparse
import datetime
import json
import pathlib
import sys
from typing import Any

BENCHMARKS = pathlib.Path(__file__).resolve().parents[1]
sys.path[0] = str(BENCHMARKS)

from measuring.sections import of_device  # noqa: E402

from accelerator import recorder  # noqa: E402

COMMAND = "python benchmarks/accelerator/run.py --out DIR"


def main() -> None:
    """Reads every OUT in turn and writes the file of its device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, nargs="+", help="output directory of the kit")
    lines: list[dict[str, Any]] = []
    for out in parser.parse_args().out:
        path = out / recorder.RESULTS if out.is_dir() else out
        lines += recorder.read(path)
    device = next(line for line in lines if line.get("figure") == "device")["kind"]
    path = of_device(BENCHMARKS / "results" / "accelerator.json", device)
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(merged(kept, device, lines), indent=1) + "\n")
    print(path.relative_to(BENCHMARKS.parent))


def merged(kept: dict[str, Any], device: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """``kept`` with the measurements of ``lines``."""
    sections = {name: dict(rows) for name, rows in kept.get("sections", {}).items()}
    for line in lines:
        if "figure" not in line:
            continue
        values = {k: v for k, v in line.items() if k not in ("section", "figure", "time")}
        values["date"] = (
            datetime.datetime.fromtimestamp(line["time"], datetime.UTC).date().isoformat()
        )
        rows = sections.setdefault(line["section"], {})
        earlier = rows.get(line["figure"], {})
        worse = {"failed", "skipped"} & values.keys() and not {"failed", "skipped"} & earlier.keys()
        if not (earlier and worse):
            rows[line["figure"]] = values
    return {"device": device, "command": COMMAND, "sections": sections}


if __name__ == "__main__":
    main()
