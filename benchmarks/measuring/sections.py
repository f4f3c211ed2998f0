"""A benchmark's sections one after another: their tables, verdicts and JSON."""

import argparse
import datetime
import json
import os
import pathlib

from measuring.report import machine, verdict, versions

BUSY = (
    "load average {load:.1f} on {cores} cores before: threads that wait for each other lose most, "
    "so compare times on an idle machine only"
)
PATHS = ("results", "peer_python", "own_python", "photos", "train", "test", "workdir")  # local


def run(sections: dict, options: argparse.Namespace, *, command: str, path: pathlib.Path) -> None:
    """Runs ``options.sections``, prints and saves each.

    Args:
        sections: Name -> module with ``run(options)`` and ``table(section)``.
        options: Of the benchmark; what they are is saved, but for paths.
        command: The benchmark's file.
        path: JSON to write; sections that earlier runs left there stay. What was measured on an
            accelerator (it has a ``device``) goes into a file of that device's beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in options.sections:
        load = os.getloadavg()[0]
        section = {"load_before": load, **sections[name].run(options)}
        print(f"\n{name}\n{sections[name].table(section)}", flush=True)
        if load > 0.5:
            print(BUSY.format(load=load, cores=os.cpu_count()), flush=True)
        print()
        for found in section.get("targets", []):
            print(verdict(found), flush=True)
        save(
            of_device(path, section.get("device")),
            f"python {command} --sections {name}",
            name,
            section,
            options,
        )


def of_device(path: pathlib.Path, device: str | None) -> pathlib.Path:
    """The file of one device beside ``path``; ``path`` itself where there is no device."""
    if not device:
        return path
    slug = "".join(c if c.isalnum() else "_" for c in device.lower()).strip("_")
    return path.with_stem(f"{path.stem}_{slug}")


def save(
    path: pathlib.Path, command: str, name: str, section: dict, options: argparse.Namespace
) -> None:
    """Puts a section in its file, beside the sections that earlier runs left there."""
    report = json.loads(path.read_text()) if path.exists() else {}
    report[name] = {
        "command": command,
        "options": {key: value for key, value in vars(options).items() if key not in PATHS},
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "versions": versions(),
        **section,
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


def names(known: dict[str, object]):
    """A parser of names with commas between them."""

    def parsed(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return text.split(",")

    return parsed
