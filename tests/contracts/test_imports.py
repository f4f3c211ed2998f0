"""What an import costs, and who may load TensorFlow."""

import pathlib
import re
import subprocess
import sys

import pytest

import cssl_jax
from helpers import tiny

PACKAGE = pathlib.Path(cssl_jax.__file__).parent
WITH_TENSORFLOW = ["saved_model.py", "tf.py", "tf_kernels.py"]


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=True
    ).stdout.strip()


def test_importing_the_package_loads_neither_jax_nor_tensorflow():
    code = "import sys, cssl_jax; print([m for m in ('jax', 'tensorflow') if m in sys.modules])"
    assert python(code) == "[]"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["data"], ["pretrian"]])
def test_what_needs_no_command_loads_neither_jax_nor_tensorflow_nor_tyro(words):
    code = (
        "import sys\n"
        "from cssl_jax.cli import main as cli\n"
        f"cli.main({words!r})\n"
        "print([m for m in ('jax', 'tensorflow', 'tyro', 'numpy') if m in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "[]"


@pytest.mark.slow
def test_every_other_module_works_without_tensorflow():
    names = [
        "cssl_jax." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py", *WITH_TENSORFLOW)
    ]
    assert len(names) > 30
    loaded = python(
        "import importlib, sys\n"
        "sys.modules['tensorflow'] = None  # as where it is not installed\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "import jax._src.xla_bridge as bridge\n"
        "print(bridge._backends)"
    )
    assert loaded == "{}"  # and no import has started a device


@pytest.mark.slow
def test_a_run_without_tensorflow(tmp_path):
    recipe, run = tiny.write_recipe(tmp_path), tmp_path / "run"
    out = python(
        "import sys\n"
        "sys.modules['tensorflow'] = None\n"
        f"sys.path.insert(0, {str(pathlib.Path(tiny.__file__).parents[1])!r})\n"
        "from helpers import tiny\n"
        "from cssl_jax.cli import main as cli\n"
        f"print(cli.main(['demo', '--recipe', {str(recipe)!r}, '--workdir', {str(run)!r}]))"
    )
    assert out.endswith("0")
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.parametrize("module", ["tensorflow", "pickle"])
def test_no_other_module_names_tensorflow_and_none_unpickles(module):
    pattern = re.compile(rf"^\s*(import|from) {module}\b", re.MULTILINE)
    users = sorted(p.name for p in PACKAGE.rglob("*.py") if pattern.search(p.read_text()))
    assert users == (WITH_TENSORFLOW if module == "tensorflow" else [])


@pytest.mark.slow
def test_the_loss_is_at_hand_in_a_fresh_process():
    assert "nt_xent" in python("import cssl_jax; print(cssl_jax.losses.nt_xent)")


def test_public_names_resolve_and_others_do_not():
    for name in cssl_jax.__all__:
        assert getattr(cssl_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        _ = cssl_jax.pretrian
