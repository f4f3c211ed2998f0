"""Recipes: configs by name or file, their JSON, their validity, and how two of them differ."""

from cssl_jax.recipes.compare import (
    changed_fields,
    config_hash,
    differences,
    differing_fields,
    facts,
    resume_differences,
)
from cssl_jax.recipes.io import canonical, from_dict, override, read_json, to_dict, to_json
from cssl_jax.recipes.library import (
    code_error,
    describe,
    diff,
    import_file,
    load,
    recipe_names,
    recipe_summary,
)
from cssl_jax.recipes.paths import with_absolute_paths
from cssl_jax.recipes.sections import with_method, with_modality
from cssl_jax.recipes.validation import validate

__all__ = [
    "canonical",
    "changed_fields",
    "code_error",
    "config_hash",
    "describe",
    "diff",
    "differences",
    "differing_fields",
    "facts",
    "from_dict",
    "import_file",
    "load",
    "override",
    "read_json",
    "recipe_names",
    "recipe_summary",
    "resume_differences",
    "to_dict",
    "to_json",
    "validate",
    "with_absolute_paths",
    "with_method",
    "with_modality",
]
