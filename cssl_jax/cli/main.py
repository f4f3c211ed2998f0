"""Entry point of the command line; everything it does can be called from Python."""

import difflib
import io
import logging
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from cssl_jax import registries
from cssl_jax.errors import InterruptedRunError, RunError, UserError
from cssl_jax.version import __version__

try:
    from cssl_jax.cli import (
        adaptation,
        datasets,
        distributed_flags,
        evaluation,
        information,
        reporting,
        scaling,
        sweeping,
        training,
    )
    from cssl_jax.cli.parsing import asks_for_help
    from cssl_jax.runtime import distributed, platforms
except (ImportError, RuntimeError) as error:  # no command can be defined; only the doctor runs
    from cssl_jax.runtime.doctor import instead_of_commands

    instead_of_commands(error)

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], type]] = {
    "pretrain": (training.pretrain, training.Pretrain),
    "views": (training.views, training.Views),
    "bench-input": (training.bench_input, training.BenchInput),
    "plan": (scaling.plan, scaling.PlanOptions),
    "selfcheck": (scaling.selfcheck, scaling.SelfCheckOptions),
    "evaluate": (evaluation.evaluate, evaluation.Evaluate),
    "finetune": (training.finetune, training.Finetune),
    "adapt": (adaptation.adapt, adaptation.Adapt),
    "sweep": (sweeping.sweep, sweeping.Sweep),
    "embed": (evaluation.embed, evaluation.Embed),
    "report": (reporting.report, reporting.Report),
    "plot": (reporting.plot, reporting.Plot),
    "data check": (datasets.data_check, datasets.DataCheck),
    "data split": (datasets.data_split, datasets.DataSplit),
    "recipes": (information.list_recipes, information.Recipes),
    "recipes diff": (information.diff_recipes, information.RecipesDiff),
    "doctor": (information.doctor, information.Doctor),
    "demo": (training.demo, training.Demo),
}


# Commands that several processes may run together.
SHARED = ("pretrain", "evaluate", "finetune", "adapt", "embed", "demo", "doctor")


# Option for the number of images embedded at once, by command that trains nothing.
BATCH_OPTIONS = {"evaluate": "--evaluate.batch-size", "embed": "--batch-size"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status.

    0: done. 1: a run failed. 2: wrong use. 75: a signal arrived and the progress is saved; the same
    command resumes. 130: interrupted, with nothing to save. If one of several processes fails, it
    ends here: the interpreter's own exit would wait for the others.
    """
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as error:
        distributed.exit_process(error.code if isinstance(error.code, int) else 1)
        raise
    except BaseException as error:
        distributed.exit_process(1, traceback.format_exception(error))
        raise
    distributed.exit_process(status)
    return status


def _run(argv: list[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may have no valid encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{_overview(COMMANDS)}\n\n{distributed_flags.HELP}")
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"cssl-jax {__version__}")
        return 0
    name = argv[0]
    try:
        trusted, argv = _trusted(argv)
        options, argv = distributed_flags.options(argv)
        if not argv:
            raise UserError(f"no command after these options; there are {', '.join(COMMANDS)}")
        if (group := _group(argv)) and len(argv) == 1 + asks_for_help(argv):
            print(_overview(group))
            return 0 if len(argv) > 1 else 2
        two = " ".join(argv[:2])
        words = 2 if two in COMMANDS or (group and argv[0] not in COMMANDS) else 1
        name = " ".join(argv[:words])
        if name not in COMMANDS:
            near = difflib.get_close_matches(two, group or COMMANDS, n=1)
            near = near or group or difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"no command {name!r}; {hint}there are {', '.join(COMMANDS)}")
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's notes do not concern the user
        if name in SHARED and not asks_for_help(argv):
            distributed.start(**options)
        elif options:
            raise UserError(f"several processes share {', '.join(SHARED)}; start {name} in one")
        with trusted:
            status = COMMANDS[name][0](argv[words:])
        sys.stdout.flush()  # reports a full disk or a closed pipe here, not at exit
        return status
    except UserError as error:
        print(f"cssl-jax {name}: {error}", file=sys.stderr)
        return 2
    except InterruptedRunError as error:
        print(f"cssl-jax {name}: {error}", file=sys.stderr)
        return 75  # EX_TEMPFAIL of sysexits.h
    except KeyboardInterrupt:
        print(f"cssl-jax {name}: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as a shell reports it
    except RunError as error:
        print(f"cssl-jax {name}: {error}", file=sys.stderr)
        return 1
    except (*platforms.FAILURES, MemoryError) as error:
        status, message = _cause(name, error)
        if not status:
            raise
        print(f"cssl-jax {name}: {message}", file=sys.stderr)
        return status
    except BrokenPipeError:  # a reader such as `head` has closed the pipe
        sys.stderr.close()
        return 1
    except OSError as error:
        where = "" if error.filename is None else f": {error.filename}"
        print(f"cssl-jax {name}: {error.strerror or error}{where}", file=sys.stderr)
        return 1


def _trusted(argv: list[str]) -> tuple[AbstractContextManager[None], list[str]]:
    """(trust in the code that is named or allowed on the command line, the remaining words)."""
    rest = [word for word in argv if word != "--trust-code"]
    named = [word.rpartition("=")[2] for word in rest if registries.is_file_name(word)]
    if len(rest) < len(argv):
        return registries.trusting_code(), rest
    return (registries.trusting_code(*named) if named else nullcontext()), rest


def _cause(name: str, error: BaseException) -> tuple[int, str]:
    """(exit status, message) of a JAX error with a known cause; (0, "") of any other error."""
    from cssl_jax.planning import exhaustion

    if exhaustion.is_out_of_memory(error):
        return 1, exhaustion.evaluation_message(error, BATCH_OPTIONS.get(name, ""))
    try:
        platforms.require()
    except UserError as trouble:  # the platform is not available
        return 2, str(trouble)
    return 0, ""


def _group(argv: Sequence[str]) -> list[str]:
    """Commands of two words if only the first is given: those of "data", not of "recipes"."""
    if argv[0] in COMMANDS:
        return []
    return [name for name in COMMANDS if name.startswith(argv[0] + " ")]


def _overview(names: Iterable[str]) -> str:
    lines = ["usage: cssl-jax COMMAND [options]", ""]
    for name in names:
        text = (COMMANDS[name][1].__doc__ or "").splitlines()[0]
        lines.append(
            textwrap.fill(text, 80, initial_indent=f"  {name:<13} ", subsequent_indent=" " * 16)
        )
    lines += [
        "",
        "cssl-jax COMMAND --help lists the options of a command. --trust-code lets a run",
        "folder or a JSON config name Python files, which are then executed.",
    ]
    return "\n".join(lines)
