"""The largest batch that fits, the warnings, and the tables of the documentation."""

import dataclasses
import pathlib
import re
import shlex

import pytest

from cssl_jax import recipes
from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.cli import main as cli
from cssl_jax.errors import UserError
from cssl_jax.planning import planner
from cssl_jax.planning.config_warnings import warnings
from cssl_jax.planning.format import plan_text
from cssl_jax.planning.scaling import Hardware, rows
from cssl_jax.planning.shapes import data_shapes
from cssl_jax.runtime import subprocesses
from helpers import tiny

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
GIB = 2**30
NO_AUGMENTATION = ImagePolicy(  # a step without it is traced in half the time
    **dict.fromkeys(("crop", "horizontal_flip", "jitter", "grayscale", "blur"), (0.0,))
)


@pytest.mark.parametrize(
    "held",
    [
        lambda n: 1000 + 37 * n,
        lambda n: 1000 + 10 * n + n * n // 50,
        lambda n: 500 + 37 * max(n, 40),
        lambda n: 37 * n + (300 if n > 90 else 0),
    ],
)
@pytest.mark.parametrize("memory", [600, 1036, 1500, 5000, 123_456])
def test_the_largest_count_is_the_largest_that_fits(held, memory):
    expected = max((n for n in range(1, 20_000) if held(n) <= memory), default=0)
    assert planner.largest_count(held, memory, start=8) == expected


def test_the_largest_count_needs_few_tries():
    tries = []

    def held(count):
        tries.append(count)
        return 10**9 + 123_457 * count

    assert planner.largest_count(held, 16 * GIB, start=8) == (16 * GIB - 10**9) // 123_457
    assert len(tries) <= 6


@pytest.fixture(scope="module")
def given():
    config = tiny.replace(recipes.load("debug"), "model", encoder="resnet10")
    config = dataclasses.replace(config, augment=NO_AUGMENTATION)
    return config, data_shapes(config, None, 8)


MEMORY, MICRO, DEVICES = 64 * 2**20, 4, 8
# A machine without accelerators; a CPU does not report its memory.
CPU = {"platform": "cpu", "kind": "cpu", "count": 1, "memory": None}


@pytest.fixture(scope="module")
def planned(given):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocesses, "devices", lambda timeout: CPU)
        config = tiny.replace(given[0], "train", micro_batch=MICRO * DEVICES)
        return planner.plan(config, devices=DEVICES, memory_gb=MEMORY / GIB, compile=False)


@pytest.fixture(scope="module")
def largest(planned):
    return planned.largest


@pytest.mark.slow
def test_the_report_contains_the_results(planned):
    text = plan_text(planned)
    assert "resnet10 of width 0.125, float32, 8 px, batch 64 over 8 device(s), 8 examples" in text
    for kind, batch in planned.largest.items():
        assert re.search(rf"^  {kind} +{batch:,} \({batch // 8:,} per device\)", text, re.M)
    assert "--train.micro-batch 32" in text
    assert f"  all-gather{planned.shapes.cost.all_gather:>22,}" in text
    assert "by shapes it fits" in text
    assert "section 2.2, global BN" in " ".join(text.split())
    assert "compiled" not in text


@pytest.mark.slow
@pytest.mark.parametrize("kind", planner.KINDS)
def test_the_largest_batch_fits_and_the_next_does_not(given, largest, kind):
    config, known = given
    unit = DEVICES * (MICRO if kind == "GradCache" else 1)
    assert largest[kind] > 0
    assert largest[kind] % unit == 0

    def held(batch):
        tried = planner.with_step(config, kind, batch, MICRO * DEVICES)
        return planner.shapes_of(tried, DEVICES, known).held

    assert held(largest[kind]) <= MEMORY < held(largest[kind] + unit)


@pytest.mark.slow
def test_gradcache_and_remat_fit_more(largest):
    assert largest["plain"] < largest["remat"] < largest["GradCache"]


@pytest.mark.slow
def test_less_memory_than_the_model_fits_no_batch(given):
    config, known = given
    assert planner.largest_batch(config, "plain", 8, known, 2**20, 4) == 0


# ------------------------------------------------------------------------------------------- advice


def test_linear_scaling_of_a_small_batch_is_warned_of_with_the_papers_accuracies():
    config = recipes.load("imagenet_resnet50")
    (warning,) = warnings(tiny.replace(config, "train", batch_size=256))
    assert "5.3 points at batch 256 and 100 epochs, 57.5 % against 62.8 %" in warning
    assert "arXiv 2002.05709, table B.1" in warning
    (warning,) = warnings(tiny.replace(config, "train", batch_size=500))
    assert "3.1 points at batch 512" in warning
    assert warnings(tiny.replace(config, "train", batch_size=256, epochs=800)) == []
    assert warnings(recipes.load("imagenet_resnet50_small")) == []


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        ("method", {"temperature": 1.0}, "58.0 % at 1, 64.4 % at 0.1"),
        ("method", {"temperature": 0.02}, "59.7 % at 0.05"),
        ("augment", {"jitter": (0.0,)}, "section 3.1 and figure 6"),
        ("augment", {"jitter_strength": 0.2}, "61.0 % at 1/4"),
        ("model", {"projector_layers": 1}, "3 points"),
        ("model", {"norm_group": 32}, "section 2.2"),
        ("train", {"micro_batch": 256}, "section 2.2"),
    ],
)
def test_settings_that_the_paper_measured_as_worse_are_warned_of(section, values, expected):
    config = recipes.load("imagenet_resnet50")
    assert warnings(config) == []
    (warning,) = warnings(tiny.replace(config, section, **values))
    assert expected in warning
    assert "arXiv 2002.05709" in warning


@pytest.mark.parametrize("name", ["cifar10_resnet18", "cifar10_resnet50", "digits", "folder"])
def test_a_recipe_for_other_data_is_not_warned_of_with_imagenets_accuracies(name):
    assert warnings(recipes.load(name)) == []


# ------------------------------------------------------------------------------------------ command


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(subprocesses, "devices", lambda timeout: CPU)


def test_the_memory_must_be_known(machine, capsys):
    assert cli.main(["plan", "debug", "--no-compile"]) == 2
    assert "give the memory of one device to plan for, e.g. --memory-gb 16" in (
        capsys.readouterr().err
    )


def test_an_indivisible_batch_is_refused(machine, capsys):
    command = ["plan", "debug", "--devices", "24", "--memory-gb", "1", "--no-compile"]
    assert cli.main(command) == 2
    assert "global batch 64 does not divide over 24 devices; use 48 or 72" in (
        capsys.readouterr().err
    )


def test_missing_data_needs_only_the_size_of_a_view(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # cifar10_train.npz is not there
    config = recipes.load("cifar10_resnet18")
    with pytest.raises(UserError, match=r"give the side of a view, e.g. --data.size 32"):
        data_shapes(config, None, 8)
    known = data_shapes(tiny.replace(config, "data", size=32), None, 8)
    assert known.note.startswith("cifar10_train.npz does not exist: assumed to be images of 32 px")
    assert (known.pipeline, known.spec.size, known.spec.channels) == ("stream", 32, 3)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_compiles_for_devices_that_the_machine_lacks(capsys):
    # A batch so large that the work per parameter (norms, update) is small compared with it.
    command = ["plan", "debug", "--devices", "16", "--memory-gb", "1", "--train.batch-size", "1024"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    numbers = re.search(r"^  all-reduce +([\d,]+) +([\d,]+) +([\d,]+)$", out, re.M).groups()
    by_formula, traced, compiled = (int(number.replace(",", "")) for number in numbers)
    assert by_formula == traced
    assert 0.98 * traced <= compiled <= traced
    flops = [float(x) for x in re.findall(r"([\d.e-]+) TFLOP", out)]
    assert flops[1] == pytest.approx(flops[0], rel=0.2)  # 12 px views: much of the work is padding
    assert "compiled, CPU" in out


# ------------------------------------------------------------------------------------------ scaling


def test_a_fixed_batch_and_a_growing_one(given):
    config, known = given
    hardware = Hardware(teraflops=2, gigabytes=3, microseconds=10)
    fixed = rows(config, known, (1, 4, 16), 0, hardware)
    assert [row.batch for row in fixed] == [64] * 3
    # Encoder and loss are both split over devices: each computes the loss of its own rows.
    assert [row.cost.flops for row in fixed] == [fixed[0].cost.flops // n for n in (1, 4, 16)]
    assert fixed[0].wires == fixed[0].waits == 0
    assert fixed[2].compute == fixed[2].cost.flops / 2e12
    assert fixed[2].wires == fixed[2].cost.sent(16) / 3e9
    # Two averages per norm, over a tree of 16 devices up and down.
    norms = 1 + 4 * 2 + 3 + 2  # stem, blocks, shortcuts, head
    assert fixed[2].waits == pytest.approx(2 * norms * 2 * 4 * 10e-6)
    growing = rows(config, known, (4, 8), 2, hardware)
    assert [row.batch for row in growing] == [8, 16]
    assert growing[1].cost.encoder_flops == growing[0].cost.encoder_flops
    assert growing[1].cost.loss_flops == 2 * growing[0].cost.loss_flops


def test_groups_of_batchnorm_wait_for_their_own_devices_only(given):
    config, known = given
    grouped = tiny.replace(config, "model", norm_group=8)
    (row,) = rows(grouped, known, (16,), 0, Hardware())
    assert row.cost.norm_devices == 2
    (within,) = rows(tiny.replace(config, "model", norm_group=4), known, (16,), 0, Hardware())
    assert within.waits == 0


def test_wrong_tables_are_refused(given):
    config, known = given
    with pytest.raises(UserError, match="batch 64 does not divide over 24 devices"):
        rows(config, known, (8, 24), 0, Hardware())
    with pytest.raises(UserError, match="teraflops is 0"):
        Hardware(teraflops=0)


def commands():
    """(arguments of cssl-jax, table) of each table of the documentation."""
    matches = re.findall(r"`cssl-jax (plan [^`]*)`\n\n((?:\|.*\n)+)", DOCUMENT.read_text())
    return [(shlex.split(arguments), text) for arguments, text in matches]


def test_the_documents_tables_are_what_the_command_prints(capsys):
    assert len(commands()) >= 3
    for arguments, text in commands():
        assert cli.main(arguments) == 0
        assert capsys.readouterr().out == text, " ".join(arguments)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_documents_plan_is_what_the_command_prints(machine, monkeypatch, capsys):
    arguments, text = re.search(
        r"\$ cssl-jax (plan .*)\n((?:.*\n)*?)```", DOCUMENT.read_text()
    ).groups()
    rows = re.findall(r"^  (\w+) +[\d,]+ \(([\d,]+) per device\)", text, re.M)
    assert [kind for kind, _ in rows] == list(planner.KINDS)
    examples = [int(number.replace(",", "")) for _, number in rows]
    counts = iter([*examples[:2], examples[2] // planner.MICRO_BATCH])

    def checked_count(held, memory, start):
        """The documented count, if it is the largest; the search, tested above, tries more."""
        count = next(counts)
        assert held(count) <= memory < held(count + 1)
        return count

    monkeypatch.setattr(planner, "largest_count", checked_count)
    assert cli.main(shlex.split(arguments)) == 0

    def untimed(report):
        return re.sub(r"in \d+ s\b", "", report)

    assert untimed(capsys.readouterr().out) == untimed(text)
