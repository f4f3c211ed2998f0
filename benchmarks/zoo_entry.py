"""Adds a finished run to the index of encoders that comes with the package.

    python benchmarks/zoo_entry.py RUN NAME --command "cssl-jax pretrain ..." --description TEXT

Writes the weights beside the index, and into it the command, config, log, metrics, SHA-256 and
versions. `cssl-jax zoo verify NAME` then evaluates the file again.
"""

import argparse
import hashlib
import json
import pathlib
import tempfile

import cssl_jax
from cssl_jax.files import write_json
from cssl_jax.zoo.zoo_index import EMBEDDED

METRICS = (("linear", "top1"), ("knn", "top1"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("name")
    parser.add_argument("--command", required=True)
    parser.add_argument("--description", required=True)
    parser.add_argument("--license", default="Apache-2.0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        cssl_jax.export_run(options.run, out, format="safetensors")
        content = (out / "model.safetensors").read_bytes()
    results = json.loads((options.run / "results.json").read_text())
    rows = [json.loads(line) for line in (options.run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if any(key.startswith("knn") for key in row)]
    file = f"{options.name}.safetensors"
    EMBEDDED.with_name(file).write_bytes(content)
    index = json.loads(EMBEDDED.read_text()) if EMBEDDED.is_file() else {"format": 1}
    index.setdefault("encoders", {})[options.name] = {
        "file": file,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "description": options.description,
        "command": options.command,
        "config": json.loads((options.run / "config.json").read_text()),
        "log": "".join(json.dumps(row) + "\n" for row in evaluations),
        "metrics": {f"{group}.{name}": results[group][name] for group, name in METRICS},
        "versions": results["versions"],
        "license": options.license,
    }
    write_json(EMBEDDED, index)


if __name__ == "__main__":
    main()
