"""Arguments that a command does not take are answered in one line that says what it takes."""

import dataclasses
import pathlib
import subprocess
import sys
import typing
import warnings

import pytest
import tyro

from cssl_jax.cli import main as cli
from cssl_jax.cli.option_types import Option, options_of
from cssl_jax.cli.parsing import parse
from cssl_jax.cli.usage_errors import message
from cssl_jax.errors import UserError
from tests.helpers.marks import slow

RUN = ["pretrain", "debug", "--workdir", "x"]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([*RUN, "--train.epoch", "3"], "unknown option --train.epoch; did you mean "
         "--train.epochs?"),
        ([*RUN, "--train.bacth_size=8"], "unknown option --train.bacth_size; did you mean "
         "--train.batch-size?"),
        ([*RUN, "--epochs", "3"], "unknown option --epochs; did you mean --train.epochs?"),
        ([*RUN, "--train.e", "3"], "unknown option --train.e; did you mean --train.epochs or "
         "--train.evaluate-every?"),
        ([*RUN, "-q"], "unknown option -q"),
        ([*RUN, "--train.epochs"], "--train.epochs has no value; give a whole number"),
        ([*RUN, "--train.epochs", "--train.seed", "1"], "--train.epochs has no value; give a whole "
         "number"),
        ([*RUN, "--train.epochs", "ten"], "--train.epochs is 'ten'; give a whole number"),
        ([*RUN, "--train.epochs="], "--train.epochs is ''; give a whole number"),
        ([*RUN, "--model.width", "wide"], "--model.width is 'wide'; give a number"),
        ([*RUN, "--data.resident", "maybe"], "--data.resident is 'maybe'; give True, False, split "
         "or None"),
        ([*RUN, "--method.name", "classifier", "--classifier.stages", "some"],
         "--classifier.stages is 'some'; give a whole number or all"),
        ([*RUN, "--optimizer.scaling", "root"], "--optimizer.scaling is 'root'; give one of "
         "linear, sqrt, none"),
        ([*RUN, "--train.tensorboard", "yes"], "--train.tensorboard takes no value, but was given "
         "'yes'; give --train.tensorboard or --train.no-tensorboard"),
        ([*RUN, "--train.tensorboard=yes"], "--train.tensorboard takes no value, but was given "
         "'yes'; give --train.tensorboard or --train.no-tensorboard"),
        ([*RUN, "--augment.crop-area", "1"], "--augment.crop-area has 1 value, 1; give 2 numbers"),
        ([*RUN, "--augment.crop-area", "1", "b"], "--augment.crop-area is '1 b'; give 2 numbers"),
        ([*RUN, "--augment.blur", "1", "b"], "--augment.blur is 'b'; give numbers"),
        ([*RUN, "--train.epochs", "3", "4"], "unexpected argument '4'; --train.epochs takes a "
         "whole number"),
        ([*RUN, "--foo", "--bar", "--train.epochs", "ten"], "unknown option --foo (2 more errors)"),
        (["pretrain", "debug"], "--workdir is missing; give --workdir FOLDER"),
        (["recipes", "diff", "a"], "B is missing"),
        (["recipes", "diff", "a", "b", "c"], "unexpected argument 'c'"),
        (["plot", "run", "--output", "a.png", "--kind", "tnse"], "--kind is 'tnse'; did you mean "
         "'tsne'? give one of curves, pca, tsne, umap, confusion, neighbours, views"),
        (["data", "split", "a", "--output", "b", "--fractions", "1"], "--fractions has 1 value, 1; "
         "give 3 numbers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_the_first_error_is_one_line_and_the_second_says_where_the_help_is(
    argv, line, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    name = " ".join(argv[: 2 if argv[0] in ("recipes", "data") else 1])
    out, err = capsys.readouterr()
    assert err == f"cssl-jax {name}: {line}\n`cssl-jax {name} --help` lists the options\n"
    assert err.isascii()
    assert not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        slow(["doctor", "--devics"], "cssl-jax doctor: unknown option --devics\n"
         "`cssl-jax doctor --help` lists the options\n"),
        (["data", "splt"], "cssl-jax data: no command 'data splt'; did you mean 'data split'? "
         "`cssl-jax --help` lists all commands\n"),
    ],
    ids=["option", "command"],
)  # fmt: skip
def test_a_process_ends_with_the_answer_and_status_2(argv, error):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "cssl_jax", *argv], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", error)


def test_a_command_that_is_like_no_other_is_answered_with_all(capsys):
    assert cli.main(["xyzzy"]) == 2
    assert "no command 'xyzzy'; there are pretrain, import, views" in capsys.readouterr().err


def test_a_value_that_the_options_themselves_refuse_keeps_their_message(capsys):
    assert cli.main(["plan", "debug", "--teraflops", "-1"]) == 2
    assert capsys.readouterr().err == ("cssl-jax plan: teraflops is -1.0; give a positive number\n")


@dataclasses.dataclass(frozen=True)
class _Even:
    number: int = 0

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("odd")


def test_an_error_without_a_known_cause_names_the_arguments():
    with pytest.raises(UserError, match="the arguments do not fit together: --number 3\n"):
        parse(_Even, "plan", ["--number", "3"])


def test_help_wins_over_errors(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([*RUN, "--train.epoch", "3", "--help"])
    assert exit_.value.code == 0
    assert "usage: cssl-jax pretrain" in capsys.readouterr().out


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_the_options_found_are_those_that_tyro_takes(command):
    options = list(options_of(cli.COMMANDS[command].options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there is no other way to ask tyro
        parser = tyro.extras.get_parser(cli.COMMANDS[command].options)
    taken = {name for action in parser._actions for name in action.option_strings}
    named = [option for option in options if not option.is_positional]
    found = {option.name for option in named}
    found |= {option.negation for option in named if option.kind is bool}
    assert found == taken - {"-h", "--help"}
    required = {
        action.option_strings[0] if action.option_strings else action.metavar
        for action in parser._actions
        if action.required
    }
    assert {option.name for option in options if option.is_required} == required


KINDS = {
    option.kind: option
    for command in cli.COMMANDS.values()
    for option in options_of(command.options)
    if option.kind is not bool
}
WORDS = [
    "-1",
    "1e999",
    "nan",
    "-inf",
    "",
    "None",
    "auto",
    "all",
    "split",
    "0",
    "0.5",
    "True",
    "1_0",
]


@pytest.mark.parametrize("kind", list(KINDS), ids=str)
def test_a_value_is_accepted_exactly_where_tyro_accepts_it(kind, capsys):
    one = dataclasses.make_dataclass("One", [("value", kind)])
    option = Option("--value", kind, "", is_positional=False, is_required=True)
    count = 2 if option.is_variadic else option.count
    for word in (*WORDS, *option.choices):
        words = [word] * count
        try:
            tyro.cli(one, args=["--value", *words])
            taken = True
        except SystemExit:
            taken = False
        assert option.accepts(words) == taken, (kind, words)
        text = message([option], "plan", ["--value", *words])
        assert ("do not fit together" in text) == taken


def test_there_are_kinds_of_every_sort():
    origins = {typing.get_origin(kind) or kind for kind in KINDS}
    assert {int, float, str, pathlib.Path, tuple, typing.Literal} <= origins
