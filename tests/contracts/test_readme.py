"""The commands of README.md and docs/, run as they are written."""

import dataclasses
import os
import pathlib
import re
import shlex
import subprocess
import sys

import PIL.Image
import pytest

from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.config import Config
from cssl_jax.data.sources.open import load_source
from cssl_jax.methods.registry import METHODS
from helpers import compilation

ROOT = pathlib.Path(__file__).resolve().parents[2]
WRITTEN = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *(path for path in sorted((ROOT / "docs").iterdir()) if path.suffix in (".md", ".ipynb")),
    *sorted(path for path in (ROOT / "launch").iterdir() if path.is_file()),
    *sorted((ROOT / "configs").glob("*.py")),
]


# Documents whose blocks of a language run one after another in one folder. A command that an
# earlier block has run there is not repeated: documents may share commands.
RUNNABLE = [
    (("README.md", "docs/getting-started.md"), "bash"),
    *((("README.md",), "python"), (("docs/losses.md",), "python"), (("docs/sweeps.md",), "python")),
]
# What makes `pretrain folder` and the commands on its run quick: tiny images, the smallest encoder
# and one penalty of the probe, of which the default 45 take most of an evaluation.
SMALL = (
    "--data.size 16 --model.encoder resnet10 --model.width 0.25 --model.stem cifar "
    "--train.epochs 2 --train.batch-size 64 --optimizer.warmup-epochs 1 "
    "--evaluate.l2-values 0.1 --evaluate.online-l2-values 0.1 --evaluate.probe-seeds 1 "
    "--evaluate.draws 10"
)
# Stands before the command on PATH and appends these options, so that blocks run unchanged.
WRAPPER = """#!/bin/sh
if [ "$1 $2" = "pretrain folder" ]; then exec "{command}" "$@" {small}; fi
exec "{command}" "$@"
"""


def make_images(folder):
    digits = load_source("digits")
    for number in range(400):
        place = folder / str(digits.labels[number])
        place.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(digits.image(number)[..., 0]).save(place / f"{number}.png")


def write_wrapper(folder):
    folder.mkdir()
    command = pathlib.Path(sys.executable).parent / "cssl-jax"
    wrapper = folder / "cssl-jax"
    wrapper.write_text(WRAPPER.format(command=command, small=SMALL))
    wrapper.chmod(0o755)


def new_commands(blocks):
    """The lines of shell blocks, without those that have the words of an earlier line."""
    lines = {}
    for line in "".join(blocks).splitlines():
        if words := tuple(shlex.split(line, comments=True)):
            lines.setdefault(words, line)
    return lines.values()


def test_a_shared_command_runs_once_whatever_its_comment():
    blocks = ["cssl-jax doctor   # first\n", "cssl-jax doctor\n\n# words\ncssl-jax views x\n"]
    assert list(new_commands(blocks)) == ["cssl-jax doctor   # first", "cssl-jax views x"]


@pytest.mark.slow
@pytest.mark.parametrize(("documents", "language"), RUNNABLE, ids=lambda value: str(value))
def test_every_block_runs(documents, language, tmp_path):
    blocks = []
    for document in documents:
        text = (ROOT / document).read_text()
        found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
        assert found, document
        blocks += found
    if language == "bash":
        make_images(tmp_path / "images")
    write_wrapper(tmp_path / "bin")
    path = f"{tmp_path / 'bin'}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    command = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    for block in new_commands(blocks) if language == "bash" else blocks:
        done = subprocess.run(
            [*command[language], block],
            cwd=tmp_path,
            env={**compilation.users_environment(), "PATH": path},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
    if language == "bash":
        assert (tmp_path / "features.npz").is_file()
        assert (tmp_path / "runs" / "mine" / "results.json").is_file()


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_option_and_command_that_is_written_exists(path):
    text = path.read_text()
    known = dataclasses.asdict(Config())
    for name in METHODS:
        known["method"] |= dataclasses.asdict(recipes.with_method(Config(), name).method)
    if path.stem in ("series", "audio", "text"):
        other = recipes.with_modality(Config(), path.stem)
        known |= {name: dataclasses.asdict(getattr(other, name)) for name in ("data", "augment")}
    for section, field in re.findall(r"--(?!section\.)([a-z]+)\.([a-z0-9-]*[a-z0-9])", text):
        name = field.replace("-", "_")
        assert section in known, f"--{section}.{field}"
        if name not in known[section]:
            assert isinstance(known[section].get(name.removeprefix("no_")), bool), f"--{field}"
    for first, second in re.findall(
        r"\bcssl-jax (?!commands?\b|help\b)([a-z][a-z-]*)(?: ([a-z]+))?", text
    ):
        whole = f"{first} {second}".strip()
        assert first in cli.COMMANDS or any(
            f"{name} ".startswith(f"{whole} ") for name in cli.COMMANDS
        )


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_no_placeholder_is_left(path):
    assert not re.findall(r"@[A-Z]+@|\bTODO\b|_RESULT\b", path.read_text())
