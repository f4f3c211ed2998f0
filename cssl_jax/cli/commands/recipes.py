"""Commands `recipes` and `recipes diff`: all recipes, one of them, and how two differ."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.cli.parsing import parse


@dataclasses.dataclass(frozen=True)
class Recipes:
    """List the recipes that come with the package, or show one of them.

    Attributes:
        recipe: Recipe to show: its header, and the fields that are not at their defaults. Empty:
            all recipes are listed.
    """

    recipe: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="[RECIPE]")]] = ""


def show_recipes(argv: Sequence[str]) -> int:
    """`cssl-jax recipes [RECIPE]`."""
    from cssl_jax import recipes

    options = parse(Recipes, "recipes", argv)
    if options.recipe:
        print(recipes.describe(options.recipe))
        return 0
    for name in recipes.recipe_names():
        print(f"{name:<24} {recipes.recipe_summary(name)}")
    return 0


@dataclasses.dataclass(frozen=True)
class RecipesDiff:
    """Show the fields in which two recipes differ.

    Attributes:
        a: First recipe: a name, or a .py or .json file (such as a run's config.json).
        b: Second recipe, in the same form.
    """

    a: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="A")]]
    b: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="B")]]


def diff_recipes(argv: Sequence[str]) -> int:
    """`cssl-jax recipes diff A B`."""
    from cssl_jax import recipes

    options = parse(RecipesDiff, "recipes diff", argv)
    print(recipes.diff(options.a, options.b))
    return 0
