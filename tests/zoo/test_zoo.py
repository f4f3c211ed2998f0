"""Indices of encoders: files and URLs, checked by size and SHA-256, and evaluated again."""

import hashlib
import http.server
import json
import pathlib
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import cssl_jax
from cssl_jax.cli import main as cli
from cssl_jax.errors import UserError
from cssl_jax.interop import safetensors
from cssl_jax.train.zoo_verification import verify_zoo
from cssl_jax.zoo.zoo_index import EMBEDDED, open_zoo
from helpers import compilation

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTENT = b"weights of a test"


def fields(**changes):
    """An entry of an index."""
    return {
        "file": "a.safetensors",
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "description": "a test",
        "command": "cssl-jax demo",
        "config": {},
        "log": "",
        "metrics": {"linear.top1": 0.5},
        "versions": {"jax": "0"},
        "license": "CC0-1.0",
        **changes,
    }


def write(folder, entries=None, **changes):
    """A folder with an index and a file of weights; the path of the index."""
    entries = {"tiny": fields()} if entries is None else entries
    path = folder / "index.json"
    path.write_text(json.dumps({"format": 1, "encoders": entries, **changes}))
    (folder / "a.safetensors").write_bytes(CONTENT)
    return path


@pytest.fixture
def served(tmp_path):
    """URL of a folder that a local server serves, and the folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **options):
            super().__init__(*args, directory=str(tmp_path), **options)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.json", tmp_path
    server.shutdown()
    server.server_close()


def test_the_embedded_encoder_is_the_file_of_the_index(capsys, tmp_path):
    entry = open_zoo().entry("digits")
    content = EMBEDDED.with_name(entry.file).read_bytes()
    assert len(content) == entry.bytes < 3_000_000
    assert hashlib.sha256(content).hexdigest() == entry.sha256
    assert cli.main(["zoo", "list"]) == 0
    assert f"{entry.bytes:,} bytes" in capsys.readouterr().out
    output = tmp_path / "own.safetensors"
    assert cli.main(["zoo", "get", "digits", "--output", str(output)]) == 0
    assert output.read_bytes() == content


def test_the_embedded_encoder_is_loaded_by_its_name():
    encoder = cssl_jax.load_encoder("zoo:digits")
    assert encoder.config.model.encoder == "resnet14"
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    features = encoder(images)
    assert features.shape == (3, 512)
    assert np.isfinite(features).all()
    with pytest.raises(UserError, match=r"has no encoder 'none'; there are: digits"):
        cssl_jax.load_encoder("zoo:none")


def verify(*words):
    """`zoo verify` as a user starts it: the tests' compiler options make it much slower."""
    command = [sys.executable, "-m", "cssl_jax", "zoo", "verify", *words]
    environment = compilation.users_environment()
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_page_states_the_values_of_the_index():
    entry = open_zoo().entry("digits")
    page = " ".join((ROOT / "docs" / "weights.md").read_text().split())
    assert f"{entry.bytes:,} bytes" in page
    linear, knn = (100 * entry.metrics[f"{name}.top1"] for name in ("linear", "knn"))
    assert f"linear probe {linear:.1f} %, kNN {knn:.1f} %" in page


@pytest.mark.slow
def test_the_embedded_encoder_has_the_metrics_that_the_index_states():
    done = verify("digits")
    assert done.returncode == 0, done.stderr
    assert "linear.top1" in done.stdout


@pytest.mark.slow
def test_an_encoder_with_other_weights_is_found_out(tmp_path):
    entry = open_zoo().entry("digits")
    weights = EMBEDDED.with_name(entry.file)
    arrays = safetensors.read(weights)
    arrays["params/conv1/kernel"] = np.zeros_like(arrays["params/conv1/kernel"])
    file = tmp_path / "a.safetensors"
    safetensors.write(file, arrays, safetensors.read_metadata(weights))
    content = file.read_bytes()
    # Features of zeros are at chance with every penalty: one is enough to find them out.
    few = {"l2_values": [0.1], "probe_seeds": 1}
    config = {**entry.config, "evaluate": {**entry.config["evaluate"], **few}}
    changed = {
        **{name: value for name, value in vars(entry).items() if name != "name"},
        "file": file.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "config": config,
        "metrics": {"linear.top1": entry.metrics["linear.top1"]},
    }
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"format": 1, "encoders": {"other": changed}}))
    done = verify("other", "--index", str(index))
    assert done.returncode != 0
    assert re.search(r"linear\.top1 is 0\..*, and the index states 0\.9", done.stderr)


def test_an_index_and_its_files_are_read_from_a_server(served, tmp_path):
    url, folder = served
    write(folder)
    output = tmp_path / "out.safetensors"
    assert cli.main(["zoo", "get", "tiny", "--index", url, "--output", str(output)]) == 0
    assert output.read_bytes() == CONTENT
    (folder / "a.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot read http://.*a\.safetensors: File not found"):
        open_zoo(url).read("tiny")


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"!", CONTENT[:-1] + b"!"])
def test_another_file_than_stated_is_not_written(content, tmp_path, capsys):
    index, output = write(tmp_path), tmp_path / "out.safetensors"
    (tmp_path / "a.safetensors").write_bytes(content)
    words = ["zoo", "get", "tiny", "--index", str(index), "--output", str(output)]
    assert cli.main(words) != 0
    assert re.search(r"is not the file of the index|is larger than", capsys.readouterr().err)
    assert not output.exists()


@pytest.mark.parametrize(
    "entries",
    [
        [],
        {"tiny": None},
        {"tiny": {**fields(), "other": 1}},
        {"../tiny": fields()},
        *(
            {"tiny": fields(**change)}
            for change in (
                {"file": "../a.safetensors"},
                {"file": "/etc/passwd"},
                {"file": "http://example.org/a"},
                {"bytes": -1},
                {"bytes": True},
                {"bytes": 2**50},
                {"sha256": "0"},
                {"metrics": {"linear.top1": "high"}},
                {"command": None},
            )
        ),
    ],
)
def test_a_damaged_index_is_refused(entries, tmp_path):
    with pytest.raises(UserError, match="is no index of encoders"):
        open_zoo(str(write(tmp_path, entries)))


def test_an_index_of_a_newer_version_and_a_missing_one_are_named(tmp_path):
    with pytest.raises(UserError, match="has format 2; this version reads 1"):
        open_zoo(str(write(tmp_path, format=2)))
    with pytest.raises(UserError, match=r"cannot read .*none\.json: No such file"):
        open_zoo(str(tmp_path / "none.json"))


def test_code_that_an_index_names_does_not_run(tmp_path):
    code = tmp_path / "mine.py"
    code.write_text("raise SystemExit('ran')\n")
    config = {"model": {"encoder": f"{code}:ENCODER"}}
    index = write(tmp_path, {"tiny": fields(config=config)})
    with pytest.raises(UserError, match="code in a file of its author's, which is not run"):
        verify_zoo("tiny", str(index))
