"""The package's modules, what each imports, and the order of its packages."""

import ast
import pathlib

import cssl_jax

PACKAGE = pathlib.Path(cssl_jax.__file__).parent
# A package may import those that follow it, at the top of a module or inside a function.
ORDER = (
    *("__main__", "cli", "sweeps", "transfer", "selfcheck", "report", "train"),
    *("export", "planning"),
    *(
        "evaluate",
        "experiment",
        "recipes",
        "checkpoint",
        "step",
        "optim",
        "methods",
        "losses",
        "models",
    ),
    *("modalities", "data", "config", "augment", "zoo", "interop", "runtime"),
    *("registries", "outputs", "progress", "files", "lazy", "errors", "version"),
)


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path):
    """Modules of this package that a file imports anywhere, those for type checking included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cssl_jax"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def package(module):
    return [*module.split("."), ""][1]
