"""Shortens a command's help to the options that most runs need, and wraps it to the terminal."""

import dataclasses
import re
import textwrap
from collections.abc import Collection, Sequence

HELP_ALL = "--help-all"
# Config fields that `--help` shows. The others keep their recipe's value in most runs.
ESSENTIAL = frozenset(
    {
        *("data.source", "data.validation-source", "data.validation-fraction", "data.labels"),
        *("data.size", "data.channels", "data.max-rejected", "data.augment-on", "data.resident"),
        *("augment.crop-area", "augment.horizontal-flip", "augment.jitter-strength"),
        *("augment.grayscale", "augment.blur", "augment.interpolation"),
        *("model.encoder", "model.width", "model.patch", "model.stem", "model.norm-group"),
        *("model.remat", "model.dtype", "model.projector-dim"),
        *("classifier.stages", "classifier.head-layers", "classifier.label-smoothing"),
        *("adapt.target", "adapt.target-validation", "adapt.coral-weight", "adapt.dann-weight"),
        *("method.name", "method.loss", "method.temperature"),
        *("optimizer.name", "optimizer.learning-rate", "optimizer.scaling"),
        *("optimizer.warmup-epochs", "optimizer.weight-decay"),
        *("train.batch-size", "train.micro-batch", "train.epochs", "train.seed", "train.init"),
        *("train.log-every", "train.evaluate-every", "train.checkpoint-minutes"),
        *("train.on-nonfinite", "train.tensorboard", "train.wandb"),
        *("evaluate.knn-k", "evaluate.batch-size", "evaluate.train-limit"),
        *("runtime.backend", "runtime.devices", "runtime.deterministic"),
    }
)
_BORDERS = ("╭", "│", "╰")
_ASCII = str.maketrans("╭╮╰╯│─", "++++|-")
_OPTION = re.compile(r"^│ --(?:no-)?([\w-]+)\.([\w-]+)")
_BOX = re.compile(r"^╭─ (?:([\w-]+) )?options ─")


def asks_for_help(argv: Sequence[str]) -> bool:
    """True if the arguments ask for help."""
    return not {"-h", "--help", HELP_ALL}.isdisjoint(argv)


def without_sections(text: str, sections: Collection[str]) -> str:
    """Help of a command without the boxes of some config sections.

    Args:
        text: Help as tyro prints it: boxes of options, one box per config section.
        sections: Names of the sections to omit.
    """
    kept, showing = [], True
    for line in text.splitlines():
        if match := _BOX.match(line):
            showing = match[1] not in sections
        if showing:
            kept.append(line)
        showing |= line.startswith("╰")
    return "\n".join(kept) + "\n"


def shorten(text: str) -> str:
    """Help of a command without the options that are not essential.

    Options of another method or modality than the default are all essential.

    Args:
        text: Help as tyro prints it: boxes of options, one box per config section.
    """
    from cssl_jax.config import Config  # imports JAX, which most commands' own help does not need

    usual = {
        f"{section}.{name}".replace("_", "-")
        for section, fields in dataclasses.asdict(Config()).items()
        for name in fields
    }
    kept: list[str] = []
    box: list[str] = []
    hidden, showing, has_options = 0, True, False
    for line in text.splitlines():
        if _BOX.match(line):
            box, showing, has_options = [line], True, False
            continue
        if not box:
            kept.append(line)
            continue
        if match := _OPTION.match(line):
            name = f"{match[1]}.{match[2]}"
            showing = name in ESSENTIAL or name not in usual
            hidden += not showing
        elif line.startswith("│ -"):
            showing = True
        has_options |= showing and line.startswith("│ -")
        if showing or line.startswith("╰"):
            box.append(line)
        if line.startswith("╰"):
            kept += box if has_options else []
            box = []
    if hidden:
        kept += ["", f"{hidden} more options are listed by {HELP_ALL}"]
    return "\n".join(kept) + "\n"


def fit(text: str, columns: int, encoding: str | None = "utf-8") -> str:
    """Help with all lines wrapped, which tyro does inside boxes only.

    Args:
        text: Help as tyro prints it.
        columns: Number of columns of the terminal.
        encoding: Encoding of the output; boxes are drawn in ASCII if it lacks their characters.
    """
    indent = " " * len("usage: ")
    lines = [
        line
        if line.startswith(_BORDERS)
        else textwrap.fill(line, columns, subsequent_indent=indent * line.startswith("usage: "))
        for line in text.splitlines()
    ]
    text = "\n".join(lines) + "\n"
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_ASCII)
    return text
