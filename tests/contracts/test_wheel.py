"""The built wheel, installed elsewhere, with nothing of the source tree in sight."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # pip builds in place, and would leave build/ behind
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "runs")
    )
    run = {"capture_output": True, "text": True, "timeout": 600}
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, source], **run
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    # Dependencies are this environment's; the package is the wheel's.
    target = folder / "site"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel], **run
    )
    assert done.returncode == 0, done.stderr
    return wheel, target


@pytest.mark.slow
def test_the_wheel_holds_recipes_digits_and_types_and_no_tests(installed):
    names = zipfile.ZipFile(installed[0]).namelist()
    assets = ("report/assets/report.css", "report/assets/report.js")
    for name in ("configs/digits.py", "data/digits.npz", "data/digits.txt", "py.typed", *assets):
        assert f"cssl_jax/{name}" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "configs"))]


@pytest.mark.slow
def test_the_installed_command_runs_the_first_steps_of_the_demo(installed, tmp_path):
    _, target = installed
    environment = {**os.environ, "PYTHONPATH": str(target), "PYTHONSAFEPATH": "1"}
    environment["XLA_FLAGS"] = os.environ["CSSL_TEST_XLA_FLAGS"]  # one device, not eight
    where = subprocess.run(
        [sys.executable, "-c", "import cssl_jax, cssl_jax.configs as c; print(c.__file__)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    assert where.stdout.strip() == str(target / "cssl_jax" / "configs" / "__init__.py")
    command = [sys.executable, str(target / "bin" / "cssl-jax"), "demo", "--recipe", "debug"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "raw pixels" in done.stdout
    results = json.loads((tmp_path / "runs" / "demo" / "results.json").read_text())
    assert results["step"] == 22
