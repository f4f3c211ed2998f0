"""Names of the commands, where each is defined, and what the command line must know of it."""

import ast
import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

_PACKAGE = "cssl_jax.cli.commands"


@dataclasses.dataclass(frozen=True)
class Command:
    """One command; its module is imported when the command runs, since JAX takes seconds to import.

    Attributes:
        module: Name of the module in ``cssl_jax.cli.commands``.
        class_name: Name of the dataclass with the command's options.
        function: Name of the function that runs the command.
        shared: Whether several processes may run the command together.
        batch_option: Option for the number of images that are embedded at once, for messages on
            memory; "" if the command has none.
    """

    module: str
    class_name: str
    function: str = "run"
    shared: bool = False
    batch_option: str = ""

    @property
    def run(self) -> Callable[[Sequence[str]], int]:
        """Function that takes the arguments after the command's name, returns the exit status."""
        function: Callable[[Sequence[str]], int] = self._load(self.function)
        return function

    @property
    def options(self) -> type:
        """Dataclass of the command's options; its docstring has their help."""
        options: type = self._load(self.class_name)
        return options

    @functools.cached_property
    def summary(self) -> str:
        """First line of the options' docstring, read from the source without importing it."""
        source = pkgutil.get_data(_PACKAGE, f"{self.module}.py") or b""
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and node.name == self.class_name:
                return (ast.get_docstring(node) or "").partition("\n")[0]
        raise AttributeError(f"{_PACKAGE}.{self.module} has no class {self.class_name}")

    def _load(self, name: str) -> Any:
        return getattr(importlib.import_module(f"{_PACKAGE}.{self.module}"), name)


COMMANDS = {
    "pretrain": Command("pretrain", "Pretrain", shared=True),
    "import": Command("import_weights", "Import"),
    "views": Command("views", "Views"),
    "bench-input": Command("bench_input", "BenchInput"),
    "plan": Command("plan", "Plan"),
    "selfcheck": Command("selfcheck", "SelfCheck"),
    "evaluate": Command("evaluate", "Evaluate", shared=True, batch_option="--evaluate.batch-size"),
    "finetune": Command("finetune", "Finetune", shared=True),
    "adapt": Command("adapt", "Adapt", shared=True),
    "sweep": Command("sweep", "Sweep"),
    "embed": Command("embed", "Embed", shared=True, batch_option="--batch-size"),
    "export": Command("export", "Export"),
    "zoo list": Command("zoo", "ZooList", "list_zoo"),
    "zoo get": Command("zoo", "ZooGet", "get_zoo"),
    "zoo verify": Command("zoo", "ZooVerify", "verify_zoo"),
    "report": Command("report", "Report"),
    "plot": Command("plot", "Plot"),
    "data check": Command("data", "DataCheck", "check_data"),
    "data split": Command("data", "DataSplit", "split_data"),
    "recipes": Command("recipes", "Recipes", "show_recipes"),
    "recipes diff": Command("recipes", "RecipesDiff", "diff_recipes"),
    "doctor": Command("doctor", "Doctor", shared=True),
    "demo": Command("demo", "Demo", shared=True),
}
SHARED = tuple(name for name, command in COMMANDS.items() if command.shared)
