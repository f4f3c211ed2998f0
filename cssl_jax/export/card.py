"""Model card of an exported encoder."""

import json
from typing import Any

from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.evaluate.encoders.encoder_hash import variables_hash
from cssl_jax.evaluate.encoders.load import Encoder
from cssl_jax.models.registry import encoder_entry
from cssl_jax.version import __version__

# Metrics that the card shows of the run and of its baselines, where they exist.
_METRICS = (("linear", "top1"), ("knn", "top1"), ("view_retrieval", "top1"))


def model_card(
    encoder: Encoder, *, format: str, usage: str, difference: float, notes: tuple[str, ...]
) -> str:
    """Markdown text with data, recipe, quality, preprocessing, hash and usage.

    Args:
        encoder: Encoder of the run.
        format: Name of the format.
        usage: Python lines that open the files.
        difference: Largest relative difference of a feature from the run's.
        notes: Remarks.
    """
    config = encoder.config
    facts = [
        ("encoder", _encoder_text(encoder)),
        ("method", config.method.name),
        ("data", config.data.source or "unknown"),
        ("epochs, seed", f"{config.train.epochs}, {config.train.seed}" if encoder.step else ""),
        ("step", f"{encoder.step}"),
        ("input", encoder.spec.preparation),
        ("SHA-256 of the encoder's variables", variables_hash(encoder.model)),
        ("largest difference from the run's features", f"{difference:.1e} of the largest feature"),
        ("written by", f"cssl_jax {__version__}, format {format}"),
    ]
    if "imported" in encoder.meta:
        facts.insert(1, ("imported from", encoder.meta["imported"]["file"]))
    lines = [f"# {encoder.run.name}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts if value]
    lines += _quality(encoder)
    lines += [f"\n- {note}" for note in notes]
    return "\n".join([*lines, "", "```python", usage, "```", ""])


def _encoder_text(encoder: Encoder) -> str:
    model = encoder.config.model
    options = encoder_entry(model.encoder).options
    if not options and isinstance(encoder.spec, ImageSpec):
        options = ("stem",)
    named = (f"{name} {getattr(model, name)}" for name in options)
    return ", ".join([model.encoder, f"width {model.width:g}", *named])


def _quality(encoder: Encoder) -> list[str]:
    """Table of the run's metrics beside those of its baselines; empty without results."""
    path = encoder.run / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    columns = [(group, name) for group, name in _METRICS if results.get(group, {}).get(name)]
    if not columns:
        return []
    labels = results.get("baseline_labels") or {}
    rows = [("this encoder", results), *((labels[key], results.get(key, {})) for key in labels)]
    head = " | ".join(f"{group} {name}" for group, name in columns)
    lines = ["", f"| | {head} |", "|---|" + "---:|" * len(columns)]
    for label, scores in rows:
        cells = [scores.get(group, {}).get(name) for group, name in columns]
        shown = " | ".join("" if value is None else f"{100 * value:.1f} %" for value in cells)
        lines.append(f"| {label} | {shown} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
