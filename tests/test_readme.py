"""The README's commands, run as they are written."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

README = (pathlib.Path(__file__).resolve().parent.parent / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("language", ["bash", "python"])
def test_every_block_runs(language, tmp_path):
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert blocks
    scripts = pathlib.Path(sys.executable).parent
    command = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    for block in blocks:
        done = subprocess.run(
            [*command[language], block],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "XLA_FLAGS": ""},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
    if language == "bash":
        assert (tmp_path / "features.npz").is_file()
        assert (tmp_path / "runs" / "mine" / "results.json").is_file()


def test_no_placeholder_is_left():
    assert not re.findall(r"@[A-Z]+@|TODO|_RESULT", README)
