"""Configs, command lines and run folders: as in ``readers``, for what is no set of images."""

import functools
import io
import json
import sys

from hypothesis import strategies as st

from helpers.fuzzing.contract import RefusedError, one_message
from helpers.fuzzing.samples import configs


def leaves(tree, prefix=""):
    for name, value in tree.items():
        nested = isinstance(value, dict)
        yield from leaves(value, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.integers(0, 9), st.floats(0, 1), st.sampled_from(["none", "auto", "digits", "cosine"]),
        st.sampled_from([10**400, -1, 2**63, 1e308, 5e-324, float("nan"), float("inf"), "\ud800"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)  # fmt: skip


@functools.cache
def option_names():
    from cssl_jax import recipes
    from cssl_jax.config import Config

    return sorted(leaves(recipes.to_dict(Config())))


def fuzz_config(draw, broken, folder):
    """A run's config.json with broken bytes, or with wrong values in the right places."""
    from cssl_jax import recipes

    content = draw(st.sampled_from(configs()))
    if draw(st.booleans()):
        content = broken(draw, content, draw(st.sampled_from(configs())))
    else:
        tree = json.loads(content)
        for _ in range(draw(st.integers(1, 3))):
            section, field = draw(st.sampled_from(sorted(leaves(tree)))).split(".", 1)
            tree[section][field.partition(".")[0]] = draw(ANYTHING)
        content = json.dumps(tree).encode()
    (folder / "config.json").write_bytes(content)
    config = one_message(recipes.read_json, folder / "config.json")
    assert recipes.from_dict(json.loads(recipes.to_json(config))) == config
    assert len(recipes.config_hash(config)) == 12


def fuzz_options(draw, broken, folder):
    """Words of a command line that set config fields."""
    from cssl_jax import recipes
    from cssl_jax.cli.commands.bench_input import BenchInput
    from cssl_jax.cli.parsing import parse

    words = ["digits"]
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(option_names())).replace("_", "-")
        values = st.one_of(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
            st.sampled_from(
                [
                    "-1",
                    "1e999",
                    "nan",
                    "",
                    "None",
                    "auto",
                    "0",
                    "1",
                    "0.5",
                    "8",
                    "1" + "0" * 400,
                    "[1]",
                ]
            ),
        )
        words += [f"--{name}", draw(values)]
    quiet, options, code = io.StringIO(), None, None
    out, err = sys.stdout, sys.stderr
    try:
        sys.stdout = sys.stderr = quiet
        default = BenchInput("digits", config=recipes.load("digits"))
        options = one_message(parse, BenchInput, "bench-input", words, default)
    except SystemExit as exit_:  # a word asked for help
        code = exit_.code
    finally:
        sys.stdout, sys.stderr = out, err
    if options is None:
        assert code in (0, 2)
        assert quiet.getvalue().strip()
        raise RefusedError
    one_message(recipes.canonical, options.config)


def fuzz_run(draw, broken, folder):
    """What a report reads of a run folder."""
    from cssl_jax.report.run_reader import open_run

    lines = "".join(
        json.dumps({"step": s, "epoch": s / 10, "loss": 1.0, "chance_level": 5.0}) + "\n"
        + json.dumps({"step": s, "epoch": s / 10, "knn.top1": 0.5, "features.rankme": 9.0}) + "\n"
        for s in (10, 20)
    )  # fmt: skip
    results = json.dumps({"step": 20, "knn": {"top1": 0.5}, "random_init": {"knn": {"top1": 0.4}}})
    files = {"config.json": configs()[0], "metrics.jsonl": lines.encode(),
             "timings.jsonl": b'{"step": 10, "seconds": 1.0, "input_wait": 0.5}\n',
             "results.json": results.encode()}  # fmt: skip
    chosen = draw(st.sampled_from(sorted(files)))
    for name, content in files.items():
        content = broken(draw, content, content) if name == chosen else content
        (folder / name).write_bytes(content)
    run = one_message(open_run, folder)
    assert run.state


@functools.cache
def resumed():
    """What checks whether a run may be resumed; its imports take memory once."""
    from cssl_jax.checkpoint.checkpoints import FOLDER
    from cssl_jax.train import run_dir as folder

    return folder.check, FOLDER


def fuzz_resume(draw, broken, folder):
    """Another config on the folder of a run with a checkpoint, whose config.json may be broken."""
    from cssl_jax import recipes

    check, checkpoints = resumed()
    content = configs()[0]
    config = recipes.from_dict(json.loads(content))
    (folder / checkpoints / "10").mkdir(parents=True)
    whole = draw(st.booleans())
    if not whole:
        content = broken(draw, content, draw(st.sampled_from(configs())))
    (folder / "config.json").write_bytes(content)
    tree = recipes.to_dict(config)
    fields = sorted(leaves(tree))  # of the whole config: a value drawn below may be a dict
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):  # none where all is to be read
        section, field = draw(st.sampled_from(fields)).split(".", 1)
        tree[section][field] = draw(st.one_of(ANYTHING, st.just(tree[section][field])))
    other = one_message(recipes.canonical, one_message(recipes.from_dict, tree))
    one_message(check, folder, other)
    assert (folder / "config.json").read_bytes() == content  # refused or accepted: not yet changed
    if whole:
        assert recipes.resume_differences(config, other) == []
