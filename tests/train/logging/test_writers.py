"""Writers, progress bar and timings of a run, and signals, process age and devices."""

import json
import re
import signal
import subprocess
import sys
import time

import jax
import pytest

from cssl_jax.errors import UserError
from cssl_jax.files import write_json
from cssl_jax.runtime import process
from cssl_jax.train.logging.writers import InputWatch, JsonLines, Meter, Progress


def test_lines_after_the_restored_step_and_truncated_lines_are_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    lines = JsonLines(path, keep_until=2)
    lines.write(3, {"loss": 0.5})
    lines.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "a": 1},
        {"step": 2},
        {"step": 3, "loss": 0.5},
    ]


def test_a_new_run_starts_an_empty_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    JsonLines(path, keep_until=0).close()
    assert path.read_text() == ""


def test_json_files_are_replaced_atomically(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="has no place in a JSON file"):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_compile_time_does_not_affect_the_remaining_time(capfd, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])  # the bar's clock
    progress = Progress(total=100, done=0)
    now[0] += 250  # compile time, before the first step is dispatched
    for step in range(1, 51):
        progress.advance(step)
        now[0] += 0.005
    progress.close()
    assert re.search(r"running +50%.* 50/100 \[00:00<00:00", capfd.readouterr().err)


def test_the_meter_reports_throughput_and_the_fraction_of_waiting():
    meter = Meter()
    start = time.perf_counter()
    time.sleep(0.05)
    meter.add(images=32, wait=0.02)
    meter.add(images=32, wait=0.0)
    timings = meter.read()
    elapsed = time.perf_counter() - start
    assert 0.05 <= timings["seconds"] <= elapsed
    assert timings["images_per_second"] == pytest.approx(64 / timings["seconds"])
    assert timings["input_wait"] == pytest.approx(0.02 / timings["seconds"])
    assert meter.read()["images_per_second"] == 0.0


def warnings_of(watch, *fractions, seconds=3.0):
    return [watch.check({"input_wait": x, "seconds": seconds}) for x in fractions]


def test_waiting_for_input_is_reported_once_and_again_if_much_worse():
    assert warnings_of(InputWatch(), 0.9, 0.05, 0.09) == [None] * 3  # the first interval is ignored
    reported = warnings_of(InputWatch(), 0.0, 0.3, 0.3, 0.45, 0.05, 0.3, 0.6, 0.7)
    expected = [None, 0.3, None, None, None, None, 0.6, None]
    assert reported == [x and pytest.approx(x) for x in expected]


def test_short_intervals_are_evaluated_together():
    watch = InputWatch()
    assert warnings_of(watch, 0.0, 0.9, *[0.0] * 18, seconds=0.1) == [None] * 20
    assert warnings_of(watch, *[0.0] * 2, seconds=0.1) == [None] * 2
    assert warnings_of(watch, *[0.5] * 20, seconds=0.1)[-2:] != [None] * 2


def test_signals_are_caught_inside_the_context_only(capfd):
    before = signal.getsignal(signal.SIGTERM)
    with process.catch_signals() as signals:
        assert signals.signal_number is None
        signal.raise_signal(signal.SIGTERM)
        assert signals.signal_number == signal.SIGTERM
        assert re.search("SIGTERM: the run ends after .*; another signal", capfd.readouterr().err)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_process_age_is_the_time_since_its_start():
    code = "import time; time.sleep(0.5); from cssl_jax.runtime.process import process_age; "
    code += "print(process_age())"
    started = time.monotonic()
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert 0.5 < float(output) < time.monotonic() - started + 0.05


def test_a_second_interrupt_raises():
    with process.catch_signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_compile_cache_set_outside_is_preserved(tmp_path):
    outside = jax.config.values["jax_compilation_cache_dir"]
    assert process.set_compile_cache("") == outside
    try:
        assert process.set_compile_cache("off") is None
        assert jax.config.values["jax_compilation_cache_dir"] is None
        assert process.set_compile_cache(str(tmp_path / "mine")) == str(tmp_path / "mine")
        assert (tmp_path / "mine").is_dir()
    finally:
        process.set_compile_cache(outside)


def test_a_mesh_uses_the_first_devices_or_reports_the_available_number():
    assert process.make_mesh(3).size == 3
    assert process.make_mesh(0).size == len(jax.devices())
    with pytest.raises(UserError, match=r"runtime\.devices is 9, but there are 8"):
        process.make_mesh(9)
