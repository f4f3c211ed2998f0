import errno
import pathlib

import numpy as np
import pytest

from cssl_jax.data.view_log import writer as view_log
from cssl_jax.data.view_log.parameters import view_parameters
from cssl_jax.data.view_log.writer import ViewRecord, read_record
from cssl_jax.errors import UserError
from helpers import tiny


@pytest.fixture(scope="module")
def work():
    return tiny.Run(tiny.config()).pipeline.work


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(view_log, "SHARD", 4)


def run(folder, work, start, stop, *, killed=False):
    writing = ViewRecord(folder, work, start)
    for done in range(start + 1, stop + 1):
        writing.add(done)
    if killed:
        writing._done = writing._first  # the steps of the unfinished file are lost
    writing.close()


def steps(folder):
    logged = []
    for path in sorted(folder.iterdir()):
        with np.load(path, allow_pickle=False) as content:
            logged += content["step"].tolist()
    return logged


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_steps_are_written_to_files_of_fixed_size_and_read_back(tmp_path, work):
    run(tmp_path / "views", work, 0, 10)
    assert names(tmp_path / "views") == ["00000000.npz", "00000004.npz", "00000008.npz"]
    expected = view_parameters(work)(3, 9)
    logged = read_record(tmp_path / "views", 3, 9)
    assert logged.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(logged[name], value)
        assert logged[name].dtype == value.dtype


@pytest.mark.parametrize("start", [0, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("killed", [True, False])
def test_a_resumed_run_logs_every_step_exactly_once(tmp_path, work, start, killed):
    run(tmp_path, work, 0, 10, killed=killed)
    resumed = ViewRecord(tmp_path, work, start)
    resumed.close()
    assert steps(tmp_path) == list(range(start))  # no steps beyond those that the run completed
    run(tmp_path, work, start, 11)
    assert steps(tmp_path) == list(range(11))


def test_reading_steps_that_were_not_logged_gives_none(tmp_path, work):
    assert read_record(tmp_path / "none", 0, 1) is None
    run(tmp_path, work, 5, 9)  # logging is turned on at step 5, so its file is written completely
    assert steps(tmp_path) == list(range(4, 9))
    assert read_record(tmp_path, 3, 6) is None
    assert read_record(tmp_path, 8, 10) is None
    assert read_record(tmp_path, 4, 9)["step"].tolist() == list(range(4, 9))


def test_a_damaged_file_is_an_error_that_names_the_file(tmp_path, work):
    run(tmp_path, work, 0, 4)
    (tmp_path / "00000000.npz").write_bytes(b"PK no more")
    with pytest.raises(UserError, match=r"00000000\.npz is damaged; delete it"):
        read_record(tmp_path, 0, 2)


def test_a_full_disk_is_an_error(tmp_path, work, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    writing = ViewRecord(pathlib.Path(tmp_path), work, 0)
    monkeypatch.setattr(view_log, "write_bytes", full)
    writing.add(4)
    with pytest.raises(OSError, match="No space left"):
        writing.close()
