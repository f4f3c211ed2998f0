"""Every package lists its public names: they resolve, are documented, and load nothing early."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import cssl_jax
from cssl_jax import lazy

# The recipes are found by name, and the command line has no Python interface.
WITHOUT_NAMES = ("cli", "configs")
PACKAGES = [
    "cssl_jax",
    *(
        f"cssl_jax.{child.name}"
        for child in pkgutil.iter_modules(cssl_jax.__path__)
        if child.ispkg and child.name not in WITHOUT_NAMES
    ),
]


@pytest.fixture(params=PACKAGES)
def package(request):
    return importlib.import_module(request.param)


def submodules(package):
    return {child.name for child in pkgutil.iter_modules(package.__path__)}


def test_every_public_name_is_defined_and_listed_by_dir(package):
    assert len(package.__all__) == len(set(package.__all__)) > 0
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))


def test_functions_and_classes_have_docstrings_and_annotations(package):
    for name in package.__all__:
        thing = getattr(package, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert thing.__doc__, name
        if inspect.isfunction(thing):
            hints = inspect.signature(thing)
            assert hints.return_annotation is not inspect.Signature.empty, name


def test_a_package_that_imports_on_first_use_lists_its_imports(package):
    imports = lazy._imports_for_type_checking(package.__name__)
    if not imports:  # its names are imported at once
        assert set(package.__all__) <= set(vars(package))
        return
    assert set(imports) == set(package.__all__) - {"__version__"}
    # A submodule of the same name would replace the public name as soon as it is imported.
    assert not set(package.__all__) & submodules(package)


def test_submodules_need_no_import(package):
    assert submodules(package) - {"__main__"} <= set(dir(package)) | {"configs"}
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = package.no_such_name


@pytest.mark.slow
def test_importing_packages_starts_no_device_and_loads_no_optional_library():
    code = (
        f"import importlib, sys\nfor name in {PACKAGES!r}: importlib.import_module(name)\n"
        "optional = ('tensorflow', 'optuna', 'matplotlib', 'torch', 'orbax')\n"
        "print([name for name in optional if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=True
    )
    assert done.stdout.strip() == "[]"
