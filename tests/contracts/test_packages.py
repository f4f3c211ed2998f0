"""Packages have few files, and a file name says which file it is."""

import collections

from cssl_jax.cli.registry import COMMANDS
from cssl_jax.methods.registry import METHODS
from cssl_jax.modalities.registry import MODALITIES
from helpers.packages import MODULES

MAXIMUM_MODULES = 15  # of one package, next to its __init__.py
# Packages with one file per entry of a registry. A new entry adds a file whose place is known.
ONE_FILE_PER_ENTRY = {"cssl_jax.cli.commands", "cssl_jax.losses", "cssl_jax.methods"}
# One file per recipe, in the folder at the top level that a user edits.
RECIPES = "cssl_jax.configs"

# File names that several packages share, because they hold the same thing of different packages.
SHARED = {
    "base": "the base class or protocol of a package's entries",
    "registry": "the dictionary of a package's entries",
    "run": "the function that does what the package is for",
    "policy": "the augmentation policy of a modality, in augment/",
    "batched": "application of a policy to batches on the device, in augment/",
    "images": "the config section and the source of encoded images",
}


def children(package):
    """Modules of a package without those of its sub-packages."""
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    return {n for n in MODULES if n.rpartition(".")[0] == package and n not in packages}


def modules_by_name():
    places = collections.defaultdict(set)
    for name, path in MODULES.items():
        folder, _, own = name.rpartition(".")
        if path.name != "__init__.py" and folder != RECIPES:
            places[own].add(folder)
    return places


def same_thing(name):
    """Whether files with this name belong to one entry of a registry, or are in the table above."""
    return (
        name in SHARED  # its reason stands there
        or name in {command.module for command in COMMANDS.values()}  # with its config section
        or name in METHODS  # a method, its loss, its config
        or name in MODALITIES  # a modality, its sources, its config
    )


def test_a_package_has_at_most_fifteen_modules():
    packages = {name.rpartition(".")[0] for name in MODULES} - {"", RECIPES} - ONE_FILE_PER_ENTRY
    sizes = {package: len(children(package)) for package in packages}
    assert {package: n for package, n in sizes.items() if n > MAXIMUM_MODULES} == {}


def test_no_two_files_share_a_name_unless_they_are_the_same_thing():
    shared = {name: places for name, places in modules_by_name().items() if len(places) > 1}
    assert {name: places for name, places in shared.items() if not same_thing(name)} == {}


def test_every_name_that_may_be_shared_is():
    places = modules_by_name()
    assert [name for name in SHARED if len(places[name]) < 2] == []
