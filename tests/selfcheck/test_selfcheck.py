"""The self-check passes steps with the same results on all devices, and fails all others."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cssl_jax
from cssl_jax import recipes
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.open import load_source
from cssl_jax.errors import RunError, UserError
from cssl_jax.losses.core import two_views
from cssl_jax.runtime import spmd, subprocesses
from cssl_jax.selfcheck.reduced_config import examples_of, reduced
from cssl_jax.selfcheck.run import Row, SelfCheck, check_outcome, plan_trials, selfcheck
from cssl_jax.selfcheck.short_run import compare
from cssl_jax.step import train_step
from helpers import tiny
from tests.helpers.marks import slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROW = Row("float32", 4, 1, "shard_map", None, "")


@pytest.fixture(scope="module")
def reference():
    return tiny.Run(tiny.config()).run(1)


def verdict(outcome, reference):
    return check_outcome(ROW, outcome, reference).problem


def test_a_trial_on_other_devices_passes(reference):
    outcome = tiny.Run(tiny.config(), 4).run(1)
    assert verdict(outcome, reference) == ""
    assert compare(outcome, reference).scale == pytest.approx(1, abs=1e-5)


# ------------------------------------------------------------------------------------------ mutants


def times(monkeypatch, factor):
    make_gradient = train_step.make_gradient

    def mutant(method, make_batch, options):
        gradient = make_gradient(method, make_batch, options)

        def changed(*inputs):
            grads, outputs = gradient(*inputs)
            return jax.tree.map(lambda g: g * factor(options.axis_name), grads), outputs

        return changed

    monkeypatch.setattr(train_step, "make_gradient", mutant)


def sum_of_gradients(monkeypatch):
    times(monkeypatch, jax.lax.axis_size)


def draw_by_device(monkeypatch):
    draw = Sampler.draw

    def mutant(self, number, rows, xp=np):
        index, key = draw(self, number, rows, xp)
        return index, key if xp is np else key + jax.lax.axis_index("data").astype(key.dtype)

    monkeypatch.setattr(Sampler, "draw", mutant)


def statistics_of_a_device(monkeypatch):
    monkeypatch.setattr(spmd, "norm_groups", lambda batch, group, mesh, micro: mesh.size)


def shuffled_gather(monkeypatch):
    gather = two_views.gather
    monkeypatch.setattr(two_views, "gather", lambda x, axis: jnp.roll(gather(x, axis), len(x), 0))


def gather_without_gradient(monkeypatch):
    gather = two_views.gather
    monkeypatch.setattr(two_views, "gather", lambda x, axis: jax.lax.stop_gradient(gather(x, axis)))


def own_negatives_only(monkeypatch):
    monkeypatch.setattr(two_views, "gather", lambda x, axis: x)
    monkeypatch.setattr(two_views, "first_row", lambda rows, axis: 0)


@pytest.mark.parametrize(
    ("mutant", "expected"),
    [
        (sum_of_gradients, "gradient beyond the bound; the gradient is 4 times the reference's"),
        slow(draw_by_device, "loss, gradient, statistics beyond the bound"),
        slow(statistics_of_a_device, "loss, gradient, statistics beyond the bound"),
        slow(shuffled_gather, "loss, gradient beyond the bound"),
        slow(gather_without_gradient, "gradient beyond the bound"),
        (own_negatives_only, "loss, gradient beyond the bound"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_step_that_depends_on_the_devices_is_caught(reference, monkeypatch, mutant, expected):
    mutant(monkeypatch)
    assert verdict(tiny.Run(tiny.config(), 4).run(1), reference).startswith(expected)


@pytest.mark.slow
def test_gradients_that_differ_between_devices_are_caught(monkeypatch):
    times(monkeypatch, lambda axis: 1 + jax.lax.axis_index(axis))
    with pytest.raises(RuntimeError, match="replicas differ at"):
        tiny.Run(tiny.config(), 4).run(1)


def test_other_examples_are_caught(reference):
    other = reference._replace(examples=reference.examples + 1)
    assert verdict(other, reference) == "other examples than in the reference"


def test_nan_is_caught(reference):
    other = reference._replace(gradient=np.full_like(reference.gradient, np.nan))
    assert verdict(other, reference).startswith("gradient beyond the bound")


def test_the_table_shows_which_trial_failed_and_by_how_much(reference):
    doubled = check_outcome(ROW, reference._replace(gradient=2 * reference.gradient), reference)
    drifted = Row("float64", 8, 2, "shard_map", None, "replicas differ at ['a']")
    good = check_outcome(ROW, reference, reference)
    changes, rows = ["train.batch_size 64 -> 16"], [good, doubled, drifted]
    check = SelfCheck(changes, "noise: gone", "8 x thing", 20, rows, [])
    lines = str(check).splitlines()
    assert not check.passed
    assert "changed   train.batch_size 64 -> 16" in lines
    assert "data      noise: gone" in lines
    assert sum(line.endswith(" same") for line in lines) == 1
    assert any("1.0e+00" in line and "is 2 times the reference's" in line for line in lines)
    assert any(line.endswith("FAILED: replicas differ at ['a']") for line in lines)
    assert lines[-1] == "FAILED: 2 of 3 trials computed different results."
    assert SelfCheck([], "", "", 20, [good], []).passed


# ---------------------------------------------------------------------------------------- reduction


@pytest.mark.parametrize("name", recipes.recipe_names())
def test_a_reduced_recipe_is_valid_and_every_change_is_listed(name):
    config = recipes.load(name)
    smaller, changes = reduced(config, 8)
    differing = recipes.differing_fields(config, recipes.canonical(smaller))
    assert [line.partition(" ")[0] for line in changes] == list(differing)
    for field, (before, after) in differing.items():
        assert f"{field} {before} -> {after}" in changes


def test_groups_and_micro_batches_stay_when_a_recipe_is_reduced():
    config = recipes.load("imagenet_resnet50")
    config = tiny.replace(config, "model", norm_group=256)
    smaller, _ = reduced(tiny.replace(config, "train", micro_batch=512), 8)
    assert (smaller.model.norm_group, smaller.train.micro_batch) == (8, 8)
    assert smaller.train.batch_size == 16
    assert reduced(recipes.load("imagenet_resnet50"), 8)[0].model.norm_group == 0


def test_missing_data_is_replaced_by_noise_and_reported(tmp_path):
    config = tiny.config(batch_size=8)
    for source in (str(tmp_path / "gone.npz"), str(tmp_path / "gone")):
        named = tiny.replace(config, "data", source=source)
        written, description = examples_of(named, tmp_path / f"data{len(source)}")
        assert description.startswith("noise: ")
        assert "does not exist" in description
        assert len(load_source(written.data.source, written.data)) == 24


def test_data_that_cannot_be_read_is_not_replaced_whatever_its_name(tmp_path):
    damaged = tmp_path / "does not exist.npz"
    damaged.write_text("no zip file")
    config = tiny.replace(tiny.config(batch_size=8), "data", source=str(damaged))
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        examples_of(config, tmp_path / "data")


def test_examples_are_the_recipes_own(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 24 + i, 3), np.uint8) for i in range(6)]
    (tmp_path / "mine").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "mine" / f"{i}.png")
    options = {"source": str(tmp_path / "mine"), "size": 16, "validation_fraction": 0.2}
    config = tiny.replace(tiny.config(batch_size=2), "data", **options)
    changed, description = examples_of(config, tmp_path / "data")
    source = load_source(changed.data.source, changed.data)
    assert description == f"the first 5 training examples of {options['source']}"
    written = {source.image(i).tobytes() for i in range(len(source))}
    assert len(written) == 5
    assert written < {image.tobytes() for image in images}


def test_half_precision_is_replaced_and_reported(tmp_path):
    config = tiny.replace(tiny.config(), "model", dtype="bfloat16")
    changed, description = examples_of(config, tmp_path / "data")
    assert changed.model.dtype == "float32"
    assert "model.dtype bfloat16 -> float32" in description


def tried(platform, count, simulated, devices):
    machine = {"platform": platform, "kind": "thing", "count": count}
    plan, skipped = plan_trials(machine, simulated, devices, 20)
    return plan, " ".join(skipped)


def test_eight_simulated_devices_are_tried_in_powers_and_four_in_several_processes():
    (first, *shared), skipped = tried("cpu", 1, True, 8)
    processes, cases = first
    assert processes == 1
    assert cases[0] == ("float32", 1, "shard_map", 1)  # the reference
    for precision, steps in (("float32", 1), ("float64", 20)):
        for devices in (1, 2, 4, 8):
            assert (precision, devices, "shard_map", steps) in cases
        assert (precision, 8, "pmap", steps) in cases
    case = [("float64", 4, "shard_map", 20)]
    assert shared == [(2, case), (4, case)]
    assert skipped == ""


def test_a_number_of_devices_that_is_no_power_is_tried_with_its_divisors():
    (_, cases), *shared = tried("cpu", 1, True, 6)[0]
    assert {devices for _, devices, _, _ in cases} == {1, 2, 6}
    assert shared == [(2, [("float64", 2, "shard_map", 20)])]
    assert len(tried("cpu", 1, True, 7)[0]) == 1


def test_trials_that_a_machine_cannot_run_are_listed():
    ((_, cases),), skipped = tried("tpu", 4, False, 4)
    assert {precision for precision, *_ in cases} == {"float32"}
    assert "float64: TPUs do not support it" in skipped
    assert "several processes: only one process can use an accelerator" in skipped
    assert (
        "the only thing: there is no second one to compare it with" in tried("gpu", 1, True, 8)[1]
    )


def test_a_check_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"--devices 1 .* give at least 2 devices"):
        selfcheck(tiny.config(), devices=1)


# ---------------------------------------------------------------------------------------- processes

CHILD = """
import os, sys, time
from cssl_jax.runtime import subprocesses

def main(report, *, rank, end="well"):
    os.write(1, b"[Gloo] not for the parent\\n")
    report(rank=rank, flags=os.environ["XLA_FLAGS"], pid=os.getpid())
    if end == "fails" and rank:
        sys.exit("no such thing")
    if end == "hangs" or end == "fails":
        time.sleep(60)

subprocesses.serve(main)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "some_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_force_host_platform_device_count=8 --xla_b=2")

    def run(timeout=50, **options):
        return subprocesses.run(
            "some_child",
            [{"rank": rank, **options} for rank in range(2)],
            variables=subprocesses.environment(simulated=True),
            timeout=timeout,
        )

    return run


@pytest.mark.slow
def test_children_answer_the_parent_alone_and_choose_their_devices(child):
    (line,) = child()
    assert line["rank"] == 0
    assert line["flags"].split() == ["--xla_a=1", "--xla_b=2"]


@pytest.mark.slow
def test_one_child_that_fails_ends_all_with_its_message(child):
    with pytest.raises(RunError, match="a process of some_child failed: no such thing"):
        child(end="fails")


@pytest.mark.slow
def test_children_that_hang_are_ended(child):
    with pytest.raises(RunError, match="took longer than 3 s"):
        child(3, end="hangs")


PARENT = """
from cssl_jax.runtime import subprocesses

subprocesses.run("some_child", [{"rank": 0, "end": "hangs"}], timeout=50,
             variables=subprocesses.environment(simulated=True),
             on_line=lambda line: print(line["pid"], flush=True))
"""


def alive(pid):
    """Whether a process runs and is not a zombie."""
    try:
        os.kill(pid, 0)
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


@pytest.mark.slow
def test_children_end_with_a_parent_that_is_killed(child):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    end = time.monotonic() + 20
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)


# ---------------------------------------------------------------------------------------- the whole


# Most of the time is tracing: the encoder and the views are as small as they can be.
SMALL = ["debug", "--model.encoder", tiny.LINEAR_FILE]
SMALL += ["--augment.jitter", "0.0", "--augment.blur", "0.0", "--augment.solarize", "0.0"]
FAULTS = {
    "losses/core/similarity.py": (
        "jax.lax.all_gather(x, axis_name, tiled=True)",
        "jnp.roll(jax.lax.all_gather(x, axis_name, tiled=True), len(x), 0)",
    ),
    "runtime/spmd.py": (
        "if d.process_index == jax.process_index()]",
        "][: len(rows[0]) // jax.process_count()]",
    ),
}


def command(folder, *options):
    """Runs the command with the package in ``folder``."""
    run = "import cssl_jax.cli.main, sys; sys.exit(cssl_jax.cli.main.main())"
    return subprocess.run(
        [sys.executable, "-c", run, "selfcheck", *SMALL, "--steps", "2", *options],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(folder),
            "XLA_FLAGS": os.environ["CSSL_TEST_XLA_FLAGS"],
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def verdicts(done):
    """Verdict by (precision, devices, processes, backend) of every trial."""
    rows = re.findall(
        r"^(float\d\d) +(\d+) +(\d+)  (\w+) .*?(same|FAILED: .*)$", done.stdout, re.MULTILINE
    )
    return {(kind, int(n), int(count), backend): text for kind, n, count, backend, text in rows}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_passes_the_recipe_in_one_process_and_in_several():
    done = command(ROOT, "--devices", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    trials = verdicts(done)
    for precision in ("float32", "float64"):
        for devices in (1, 2, 4):
            assert (precision, devices, 1, "shard_map") in trials
        assert (precision, 4, 1, "pmap") in trials
    for processes in (2, 4):
        assert ("float64", 4, processes, "shard_map") in trials
    assert set(trials.values()) == {"same"}
    assert "PASSED" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_fails_a_package_that_is_wrong(tmp_path):
    """One fault is seen on two devices, the other one in two processes only."""
    package = pathlib.Path(cssl_jax.__file__).parent
    shutil.copytree(package, tmp_path / "cssl_jax")
    shutil.copytree(ROOT / "configs", tmp_path / "cssl_jax" / "configs", dirs_exist_ok=True)
    for file, (old, new) in FAULTS.items():
        text = (tmp_path / "cssl_jax" / file).read_text()
        assert text.count(old) == 1
        (tmp_path / "cssl_jax" / file).write_text(text.replace(old, new))
    done = command(tmp_path, "--devices", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    for (_, devices, processes, _), verdict in verdicts(done).items():
        expected = "same" if devices == 1 else "FAILED: loss, gradient"
        expected = expected if processes == 1 else "FAILED: other examples"
        assert verdict.startswith(expected), done.stdout
    assert "trials computed different results" in done.stdout
