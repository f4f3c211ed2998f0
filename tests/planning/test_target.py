"""Plans for absent accelerators: names, stated rates, counts from a compiled program."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from cssl_jax.cli import main as cli
from cssl_jax.config import Config
from cssl_jax.errors import RunError, UserError
from cssl_jax.planning.targets import kernels, target_plan
from cssl_jax.planning.targets.chips import GPUS, TPUS, parse_target
from cssl_jax.planning.targets.gpu_targets import TARGET_CONFIGS
from cssl_jax.planning.targets.target_plan import TargetPlan
from cssl_jax.planning.targets.target_text import report
from cssl_jax.recipes import load, override

TESTS = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "chips", "memory"),
    [("tpu:v5e:4x8", 32, 16e9), ("tpu:v4:4x4x2", 32, 32e9), ("cuda:h100", 1, 80e9),
     ("cuda:h200:8", 8, 141e9)],
)  # fmt: skip
def test_a_target_is_a_platform_a_chip_and_a_topology(name, chips, memory):
    target = parse_target(name)
    assert (target.chips, target.chip.memory) == (chips, memory)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tpu:v9:2x4", "give one of tpu:v4, tpu:v5e, tpu:v5p, tpu:v6e, cuda:a100"),
        ("v5e", "is unknown; give one of tpu:v4"),
        ("tpu:v5e", "has no topology; give the chips, e.g. tpu:v5e:2x4"),
        ("tpu:v5e:2by4", "has the topology '2by4'; give chips per axis, such as 4x8"),
        ("cuda:h100:0", "has the topology '0'; give chips per axis, such as 8"),
    ],
)
def test_an_unknown_target_is_refused_with_the_way_out(name, message):
    with pytest.raises(UserError, match=message):
        parse_target(name)


def test_every_gpu_has_a_description_for_the_compiler():
    assert set(TARGET_CONFIGS) == set(GPUS)
    for model, text in TARGET_CONFIGS.items():
        stated = GPUS[model].bandwidth
        (line,) = [x for x in text.splitlines() if "memory_bandwidth" in x]
        assert float(line.split(":")[1]) == pytest.approx(stated, rel=0.01)


def test_without_the_compiler_the_command_names_what_to_install(monkeypatch, capsys):
    missing = {"tpu": ("no_such_module.at_all", 'pip install "cssl-jax[plan-tpu]"')}
    monkeypatch.setattr(target_plan, "COMPILERS", missing)
    assert cli.main(["plan", "debug", "--target", "tpu:v5e:2x4"]) == 2
    error = capsys.readouterr().err
    assert 'not installed: pip install "cssl-jax[plan-tpu]"' in error


def test_a_batch_that_does_not_divide_is_refused_before_compiling(monkeypatch):
    monkeypatch.setattr(target_plan, "COMPILERS", {"tpu": ("json", "")})
    config = override(load("debug"), {"train.batch_size": 60})
    with pytest.raises(UserError, match="global batch 60 does not divide over 8 devices"):
        target_plan.plan_target(config, "tpu:v5e:2x4")


def compiled(**changes):
    return {
        "devices": 8,
        "memory": {"arguments": 1e9, "results": 0, "temporaries": 3e9},
        "flops": 197e12 * 0.010,
        "bytes": 819e9 * 0.020,
        "collectives": {"all-gather": 8e8, "all-reduce": 4e8},
        "collective_counts": {"all-gather": 1, "all-reduce": 3},
        "origins": {"encoder, forward": {"kernels": 3, "bytes": 1e9}},
        "loops": {"loops": 1, "loops of known length": 1, "conditionals": 0},
        "seconds": 12.0,
        **changes,
    }


def planned(name="tpu:v5e:2x4", **changes):
    return TargetPlan(Config(), parse_target(name), compiled(**changes), {}, 1000.0)


def test_bounds_are_amounts_over_stated_rates():
    plan = planned()
    assert plan.bounds["compute"] == pytest.approx(0.010)
    assert plan.bounds["memory bandwidth"] == pytest.approx(0.020)
    # Rings over 8 devices: 7/8 of what is gathered, twice that of what is reduced; 200 GB/s.
    assert plan.bounds["interconnect"] == pytest.approx(7 / 8 * (8e8 + 2 * 4e8) / 200e9)
    assert plan.views_per_second == pytest.approx(2 * Config().train.batch_size / 0.020)


def test_the_report_names_verdict_bound_and_origins():
    text = report(planned())
    assert "4.00 GB of 16 GB (25 %), fits" in text
    assert "limited by memory bandwidth" in text
    assert "cores supply these views at 1,000 views/s per core" in text
    assert "not run" in text
    large = report(planned(memory={"arguments": 1e9, "results": 0, "temporaries": 16e9}))
    assert "DOES NOT FIT" in large


PROGRAM = """
%body (p: f32[4]) -> f32[4] {
  %inner = f32[4]{0} fusion(%p), kind=kLoop, metadata={op_name="jit(f)/jvp(encoder)/mul"}
}

ENTRY %main (a: f32[8,4], b: f32[4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4]{0} parameter(1)
  %one = f32[8,4]{1,0} fusion(%a, %b), kind=kLoop, metadata={op_name="jit(f)/jvp(encoder)/add"}
  %two = f32[8,4]{1,0} fusion(%one), metadata={op_name="jit(f)/transpose(jvp(encoder))/mul"}
  %all = f32[8,4]{1,0} all-reduce(%two), to_apply=%sum, metadata={op_name="jit(f)/psum"}
  %new = f32[8,4]{1,0} fusion(%all), kind=kLoop, metadata={op_name="jit(f)/optimizer/sub"}
  ROOT %end = f32[8,4]{1,0} copy(%new)
}
"""


def test_operations_are_counted_by_the_part_of_the_step_that_they_come_from():
    found = kernels.by_origin(PROGRAM)
    assert {name: part["kernels"] for name, part in found.items()} == {
        "encoder, forward": 1, "encoder, backward": 1, "collectives": 1, "optimizer": 1,
        "unnamed": 1,
    }  # fmt: skip
    assert found["encoder, forward"]["bytes"] == 4 * (32 + 4 + 32)


def test_loops_and_conditionals_are_counted_in_all_computations():
    text = 'x = (s32[]) while(%t), backend_config={"known_trip_count":{"n":"4"}}\n'
    text += "y = (s32[], f32[2]{0}) while(%u)\nz = f32[] conditional(%p, %q)\n"
    assert kernels.loops(text) == {"loops": 2, "loops of known length": 1, "conditionals": 1}


def test_a_step_that_the_compiler_finds_too_large_is_refused_with_the_sizes(monkeypatch):
    # What libtpu 0.0.42.1 says of imagenet_resnet50 on 8 chips of a v5e.
    said = (
        "a process of X failed: jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Ran out of memory "
        "on HBM, the total memory required for HLO temporaries (16.31G) exceeds available HBM "
        "(15.75G)."
    )

    def run(*arguments, **options):
        raise RunError(said)

    monkeypatch.setattr(target_plan.subprocesses, "run", run)
    with pytest.raises(
        RunError, match=r"batch 64 does not fit .*\(16.31 of 15.75 GiB\); name more"
    ):
        target_plan.compile_for(load("debug"), parse_target("tpu:v5e:2x4"), 1)
    said = "a process of X failed: ValueError: something else"
    with pytest.raises(RunError, match="something else"):
        target_plan.compile_for(load("debug"), parse_target("tpu:v5e:2x4"), 1)


SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r})
import jax
from helpers import tiny
from cssl_jax.runtime import spmd
from cssl_jax.planning import compiled, jaxpr
from cssl_jax.planning.targets import kernels
from cssl_jax.planning.shapes import abstract_mesh, abstract_step, data_shapes
from cssl_jax.planning.targets.target_worker import compile_step, devices
config = tiny.config(batch_size=32)
mesh = spmd.make_mesh(devices("tpu", "v5e", "2x4"))
given = data_shapes(config, 16 * 2**30, mesh.size)
made = compile_step(abstract_step(config, mesh, given), mesh)
text = made.as_text()
abstract = abstract_mesh(mesh.size)
traced = jaxpr.device_program(abstract_step(config, abstract, given), abstract)
print(json.dumps(dict(
    devices=mesh.size, kind=mesh.devices.flat[0].device_kind, memory=compiled.memory(made),
    **compiled.cost(made),
    counts=compiled.collective_counts(text), origins=kernels.by_origin(text),
    loops=kernels.loops(text),
    host=[word for word in ("infeed(", "outfeed(", "send(", "recv(") if word in text],
    compiled=compiled.collective_bytes(text, mesh.size),
    traced=jaxpr.collective_bytes(traced),
)))
"""


def run_with_libtpu(script):
    """The last line that a script prints in a process that has the compiler of TPUs."""
    variables = {**os.environ, **target_plan._TPU_VARIABLES, "JAX_PLATFORMS": "cpu"}
    variables["PYTHONPATH"] = os.environ["CSSL_TEST_LIBTPU"]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS.parent,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


COUNT = """
import json
from cssl_jax.planning.targets.target_worker import devices
from cssl_jax.runtime import spmd
targets = [("v4", "2x2x2"), ("v5e", "2x2"), ("v5p", "2x2x1"), ("v6e", "2x4")]
print(json.dumps([spmd.make_mesh(devices("tpu", *target)).size for target in targets]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    "CSSL_TEST_LIBTPU" not in os.environ, reason="CSSL_TEST_LIBTPU names no folder with libtpu"
)
def test_each_chip_of_a_pod_is_one_device():
    assert json.loads(run_with_libtpu(COUNT)) == [8, 4, 4, 8]


@pytest.mark.slow
@pytest.mark.skipif(
    "CSSL_TEST_LIBTPU" not in os.environ, reason="CSSL_TEST_LIBTPU names no folder with libtpu"
)
def test_a_step_compiles_for_eight_chips_of_a_v5e():
    found = json.loads(run_with_libtpu(SCRIPT.format(tests=str(TESTS))))
    assert (found["devices"], found["kind"]) == (8, "TPU v5 lite")
    # Temporaries of so small a step may all be in on-chip memory, which is not counted.
    assert found["memory"]["arguments"] > 500_000
    assert found["flops"] > 1e6
    assert found["bytes"] > 1e6
    assert found["host"] == []
    assert found["loops"]["conditionals"] == 0
    assert found["loops"]["loops"] <= 1  # the rounds of the sampler
    # XLA merges the all-reduces of the gradient; the gradient of the gather is reduced as well.
    assert found["counts"]["all-gather"] == 1
    assert found["counts"]["all-reduce"] < 30
    assert found["compiled"]["all-gather"] == found["traced"]["all-gather"]
    assert {"encoder, forward", "encoder, backward", "views", "collectives"} <= set(
        found["origins"]
    )


def test_the_stated_compute_of_tpus_increases_in_this_order():
    assert [TPUS[name].flops for name in ("v5e", "v4", "v5p", "v6e")] == sorted(
        chip.flops for chip in TPUS.values()
    )
