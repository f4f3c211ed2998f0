"""JAX_PLATFORMS with a platform that is not installed: one message in every command."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

COMMANDS = [
    ["doctor"],
    ["pretrain", "debug", "--workdir", "run"],
    ["views", "debug", "--output", "views.png"],
    ["plan", "debug"],
]
PLUGINS = {"cuda": ("jax-cuda13-plugin", "jax-cuda12-plugin"), "tpu": ("libtpu",)}


def absent(platform):
    names = {dist.metadata["Name"] for dist in importlib.metadata.distributions()}
    return not names & set(PLUGINS[platform])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "argv"),
    [
        ("cuda", COMMANDS[0]),
        *[("cuda", argv) for argv in COMMANDS[1:]],
        ("tpu", COMMANDS[1]),
    ],
)
def test_a_platform_that_is_not_installed_is_one_message(platform, argv, tmp_path):
    if not absent(platform):
        pytest.skip(f"{platform} is installed here")
    done = subprocess.run(
        [sys.executable, "-m", "cssl_jax", *argv],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": platform, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    output = done.stdout if argv == ["doctor"] else done.stderr
    assert done.returncode in (1, 2), output
    lines = [line for line in output.splitlines() if "JAX_PLATFORMS" in line]
    assert len(lines) == 1, output
    assert f"JAX_PLATFORMS='{platform}' requests {platform}, which cannot be started" in lines[0]
    assert f"Installed: jax {importlib.metadata.version('jax')}" in lines[0]
    remedy = "jax[cuda13]" if platform == "cuda" else "jax[tpu]"
    assert f'pip install "{remedy}", or JAX_PLATFORMS=cpu' in lines[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert "ready to train" not in output
    assert not list(tmp_path.iterdir())
