"""What the doctor says where something is missing, too old or too new."""

import os
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from cssl_jax.runtime import doctor


def command(*argv, without=None, path=""):
    """Runs ``python -m cssl_jax ...``, as where the module ``without`` is not installed."""
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


@pytest.mark.parametrize("name", ["jax", "tyro", "flax"])
def test_it_speaks_where_a_package_is_missing_and_tells_the_command_that_mends_it(name):
    result = command("doctor", without=name)
    assert result.returncode == 1
    assert result.stderr == ""
    assert re.search(rf"^  {name} +missing$", result.stdout, re.MULTILINE)
    assert f'problem: {name} is missing: pip install "{name}' in result.stdout
    assert "ready to train" not in result.stdout


def test_other_commands_point_to_the_doctor_where_a_package_is_missing():
    result = command("recipes", without="tyro")
    assert result.returncode == 1
    assert "`cssl-jax doctor` says how to mend" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_installed_version_out_of_bounds_is_a_problem(tmp_path):
    # Real metadata of an old release, found before that of the release at hand.
    folder = tmp_path / "optax-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: optax\nVersion: 0.1.0\n")
    result = command("doctor", path=tmp_path)
    assert result.returncode == 1
    bounds = doctor.requirements()["optax"].specifier
    told = f'problem: optax 0.1.0 does not satisfy {bounds}: pip install "optax{bounds}"'
    assert told in result.stdout


def test_versions_are_held_against_both_bounds():
    requirement = Requirement("jax>=0.10,<0.13")
    assert doctor.package_trouble("jax", "0.10.2", requirement) == ""
    assert doctor.package_trouble("jax", "0.13.0", requirement).startswith("jax 0.13.0 does not")
    assert doctor.package_trouble("jax", "0.9.9", requirement).startswith("jax 0.9.9 does not")
    assert doctor.package_trouble("jax", "0.11.0.dev3", requirement) == ""  # a nightly is no defect
    assert doctor.package_trouble("chex", "0.0.1", None) == ""  # nothing known, nothing claimed
    assert doctor.package_trouble("chex", None, None) == 'chex is missing: pip install "chex"'


def test_the_bounds_are_those_of_the_package_without_its_extras():
    wanted = doctor.requirements()
    assert {"jax", "flax", "tyro"} <= set(wanted)
    assert "pytest" not in wanted


def test_an_old_python_is_a_problem():
    assert doctor.python_trouble((3, 11)) == doctor.python_trouble((3, 13)) == []
    (trouble,) = doctor.python_trouble((3, 10))
    assert trouble.startswith("Python 3.10 is too old, 3.11 or newer is needed: python3.11 -m venv")


def test_the_way_out_without_tensorboard_is_an_option_that_exists():
    assert "--train.no-tensorboard" in command("doctor", without="tensorboard").stdout
    assert "--train.no-tensorboard" in command("pretrain", "debug", "--help").stdout
