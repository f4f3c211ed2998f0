import errno
import pathlib

import numpy as np
import pytest

from cssl_jax.data.view_log import writer as view_log
from cssl_jax.data.view_log.parameters import view_parameters
from cssl_jax.data.view_log.writer import ViewLogWriter, read_view_log
from cssl_jax.errors import UserError
from helpers import tiny
from tests.helpers.marks import slow


@pytest.fixture(scope="module")
def job():
    return tiny.Run(tiny.config()).pipeline.view_job


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(view_log, "SHARD", 4)


def run(folder, job, start, stop, *, killed=False):
    writing = ViewLogWriter(folder, job, start)
    for done in range(start + 1, stop + 1):
        writing.advance(done)
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


def test_steps_are_written_to_files_of_fixed_size_and_read_back(tmp_path, job):
    run(tmp_path / "views", job, 0, 10)
    assert names(tmp_path / "views") == ["00000000.npz", "00000004.npz", "00000008.npz"]
    expected = view_parameters(job)(3, 9)
    logged = read_view_log(tmp_path / "views", 3, 9)
    assert logged.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(logged[name], value)
        assert logged[name].dtype == value.dtype


@pytest.mark.parametrize("start", [slow(0), slow(3), slow(4), slow(5), slow(8), 9])
@pytest.mark.parametrize("killed", [True, slow(False)])
def test_a_resumed_run_logs_every_step_exactly_once(tmp_path, job, start, killed):
    run(tmp_path, job, 0, 10, killed=killed)
    resumed = ViewLogWriter(tmp_path, job, start)
    resumed.close()
    assert steps(tmp_path) == list(range(start))  # no steps beyond those that the run completed
    run(tmp_path, job, start, 11)
    assert steps(tmp_path) == list(range(11))


def test_reading_steps_that_were_not_logged_gives_none(tmp_path, job):
    assert read_view_log(tmp_path / "none", 0, 1) is None
    run(tmp_path, job, 5, 9)  # logging is turned on at step 5, so its file is written completely
    assert steps(tmp_path) == list(range(4, 9))
    assert read_view_log(tmp_path, 3, 6) is None
    assert read_view_log(tmp_path, 8, 10) is None
    assert read_view_log(tmp_path, 4, 9)["step"].tolist() == list(range(4, 9))


def test_a_damaged_file_is_an_error_that_names_the_file(tmp_path, job):
    run(tmp_path, job, 0, 4)
    (tmp_path / "00000000.npz").write_bytes(b"PK no more")
    with pytest.raises(UserError, match=r"00000000\.npz is damaged; delete it"):
        read_view_log(tmp_path, 0, 2)


def test_a_full_disk_is_an_error(tmp_path, job, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    writing = ViewLogWriter(pathlib.Path(tmp_path), job, 0)
    monkeypatch.setattr(view_log, "write_bytes", full)
    writing.advance(4)
    with pytest.raises(OSError, match="No space left"):
        writing.close()
