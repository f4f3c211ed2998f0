"""The report of ``doctor`` for packages that are missing, too old or too new."""

import os
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from cssl_jax.runtime import doctor
from tests.helpers.marks import slow


def command(*argv, without=None, path=""):
    """Runs ``python -m cssl_jax ...`` as if the module ``without`` were not installed."""
    code = (
        "import runpy, sys\n"
        f"if {without!r}: sys.modules[{without!r}] = None\n"
        f"sys.argv = ['cssl-jax', *{argv!r}]\n"
        "runpy.run_module('cssl_jax', run_name='__main__')"
    )
    inherited = os.environ.get("PYTHONPATH", "")
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(path), inherited)))},
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.mark.parametrize("name", [slow("jax"), slow("tyro"), "flax"])
def test_it_reports_a_missing_package_and_the_command_that_fixes_it(name):
    result = command("doctor", without=name)
    assert result.returncode == 1
    assert result.stderr == ""
    assert re.search(rf"^  {name} +missing$", result.stdout, re.MULTILINE)
    assert f'problem: {name} is missing: pip install "{name}' in result.stdout
    assert "ready to train" not in result.stdout


@pytest.mark.slow
def test_other_commands_point_to_the_doctor_where_a_package_is_missing():
    result = command("recipes", without="tyro")
    assert result.returncode == 1
    assert "`cssl-jax doctor` shows how to fix" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_an_installed_version_out_of_bounds_is_a_problem(tmp_path):
    # Metadata of an old release, on the path before that of the installed release.
    folder = tmp_path / "optax-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: optax\nVersion: 0.1.0\n")
    result = command("doctor", path=tmp_path)
    assert result.returncode == 1
    bounds = doctor.requirements()["optax"].specifier
    problem = f'problem: optax 0.1.0 does not satisfy {bounds}: pip install "optax{bounds}"'
    assert problem in result.stdout


def test_versions_are_compared_with_both_bounds():
    requirement = Requirement("jax>=0.10,<0.13")
    assert doctor.package_trouble("jax", "0.10.2", requirement) == ""
    assert doctor.package_trouble("jax", "0.13.0", requirement).startswith("jax 0.13.0 does not")
    assert doctor.package_trouble("jax", "0.9.9", requirement).startswith("jax 0.9.9 does not")
    # Nightly versions between the bounds satisfy them.
    assert doctor.package_trouble("jax", "0.11.0.dev3", requirement) == ""
    assert doctor.package_trouble("chex", "0.0.1", None) == ""  # no requirement, no problem
    assert doctor.package_trouble("chex", None, None) == 'chex is missing: pip install "chex"'


def test_the_bounds_are_those_of_the_package_without_its_extras():
    wanted = doctor.requirements()
    assert {"jax", "flax", "tyro"} <= set(wanted)
    assert "pytest" not in wanted


def test_an_old_python_is_a_problem():
    assert doctor.python_trouble((3, 11)) == doctor.python_trouble((3, 13)) == []
    (problem,) = doctor.python_trouble((3, 10))
    assert problem.startswith("Python 3.10 is too old, 3.11 or newer is needed: python3.11 -m venv")


@pytest.mark.slow
def test_the_way_out_without_tensorboard_is_an_option_that_exists():
    assert "--train.no-tensorboard" in command("doctor", without="tensorboard").stdout
    assert "--train.no-tensorboard" in command("pretrain", "debug", "--help").stdout
