"""Evaluates an encoder of an index again, and compares with the metrics that the index states."""

import dataclasses
import pathlib
import tempfile

from cssl_jax import recipes
from cssl_jax.errors import RunError, UserError
from cssl_jax.evaluate.encoders.foreign import open_weights
from cssl_jax.evaluate.run import evaluate_run
from cssl_jax.recipes.paths import with_absolute_paths
from cssl_jax.registries import is_file_name
from cssl_jax.train.imported_run import write_imported
from cssl_jax.zoo.zoo_index import open_zoo

# Largest difference of an accuracy. Another processor or version rounds features otherwise, which
# moves single examples: two of the 359 digits are 0.0056.
_TOLERANCE = 0.006


@dataclasses.dataclass(frozen=True)
class ZooCheck:
    """Metrics of an encoder, as stated and as measured again.

    Attributes:
        name: Name in the index.
        rows: (metric, stated value, measured value).
    """

    name: str
    rows: tuple[tuple[str, float, float], ...]

    def describe(self) -> str:
        """Table of the metrics in percent."""
        width = max(len(name) for name, *_ in self.rows)
        lines = [f"{'':<{width}}  {'stated':>8}  {'measured':>8}"]
        lines += [
            f"{name:<{width}}  {100 * stated:>7.2f}%  {100 * measured:>7.2f}%"
            for name, stated, measured in self.rows
        ]
        return "\n".join(lines)


def verify_zoo(name: str, index: str = "") -> ZooCheck:
    """Downloads an encoder, evaluates it on the data of its run, and compares the metrics.

    Args:
        name: Name of the encoder in the index.
        index: Path or URL of the index; "" is the one that comes with the package.

    Raises:
        UserError: The index or the file cannot be read, or the file is another one than stated.
        RunError: A metric differs by more than 0.006.
    """
    found = open_zoo(index)
    entry = found.entry(name)
    config = recipes.from_dict(entry.config)
    if is_file_name(config.method.name) or is_file_name(config.model.encoder):
        raise UserError(f"{name} names code in a file of its author's, which is not run")
    with tempfile.TemporaryDirectory() as folder:
        weights, run = pathlib.Path(folder, "model.safetensors"), pathlib.Path(folder, "run")
        weights.write_bytes(found.read(name))
        opened = open_weights(weights)
        origin = {**opened.meta["imported"], "file": entry.file}
        write_imported(run, with_absolute_paths(config), opened.spec, opened.model, origin)
        protocols = list(dict.fromkeys(metric.partition(".")[0] for metric in entry.metrics))
        results = evaluate_run(run, protocols).to_json()
    rows = []
    for metric, stated in entry.metrics.items():
        protocol, _, field = metric.partition(".")
        measured = results.get(protocol, {}).get(field)
        if not isinstance(measured, float):
            raise UserError(f"{name}: the evaluation has no metric {metric}")
        rows.append((metric, float(stated), measured))
    check = ZooCheck(name, tuple(rows))
    differing = [row for row in rows if not abs(row[1] - row[2]) <= _TOLERANCE]
    if differing:
        metric, stated, measured = differing[0]
        raise RunError(
            f"{name}: {metric} is {measured:.4f}, and the index states {stated:.4f}; the file or "
            f"the data differ, or this version computes something else\n{check.describe()}"
        )
    return check
