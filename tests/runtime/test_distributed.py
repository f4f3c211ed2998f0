"""How a process detects that it is one of several, and its messages for wrong arguments."""

import pathlib
import socket
import subprocess
import sys
import time
import types

import jax
import pytest

from cssl_jax.cli import distributed_flags
from cssl_jax.cli import main as cli
from cssl_jax.errors import UserError
from cssl_jax.runtime import distributed, multihost, spmd


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in (*distributed._VARIABLES, "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_a_single_process_starts_nothing_and_waits_for_none(monkeypatch):
    distributed.start()
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-4]")  # a step of one task in a larger job
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    distributed.start()
    distributed.start("host:1234", 1, 0)
    assert not jax.distributed.is_initialized()
    assert multihost.is_single_process()
    assert multihost.is_primary()
    assert multihost.run_on_all(lambda: 3) == multihost.broadcast_from_primary(lambda: 3) == 3
    assert multihost.gather({"a": 1}) == [{"a": 1}]
    multihost.require_same({"a": 1})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "h:1"}, r"need all of .* give --num-processes \(or JAX_NUM_PROCESSES\)"),
        ({"coordinator": "h", "num_processes": 2, "process_id": 0}, "give HOST:PORT"),
        (
            {"coordinator": "h:1", "num_processes": 2, "process_id": 2},
            "an id from 0 to the number of processes minus 1",
        ),
        (
            {"coordinator": "h:1", "num_processes": 2, "process_id": 0, "timeout": 0},
            "--timeout 0; give seconds",
        ),
    ],
)
def test_wrong_arguments_are_refused_without_waiting(given, message):
    with pytest.raises(UserError, match=message):
        distributed.start(**given)


def test_after_jax_has_started_it_is_too_late():
    assert jax.devices()
    with pytest.raises(UserError, match=r"call cssl_jax.runtime.distributed.start\(\) first"):
        distributed.start("localhost:1234", 2, 0)


def test_variables_replace_omitted_options(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    expected = {"coordinator_address": "host:1234", "num_processes": 4, "process_id": 3}
    assert distributed._arguments("", None, None) == expected
    assert distributed._arguments("", None, 0) == {**expected, "process_id": 0}


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        # The only task of a node, and a task with GPUs of its own: all GPUs that it sees.
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [0, 1, 2, 3]),
        ({"SLURM_GPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "2,3"}, [0, 1]),
        # Several tasks that see the same GPUs: JAX assigns one to each.
        ({"SLURM_STEP_TASKS_PER_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, None),
    ],
)
def test_a_task_takes_the_gpus_that_slurm_gave_it(monkeypatch, variables, devices):
    for name in ("SLURM_GPUS_PER_TASK", "SLURM_STEP_TASKS_PER_NODE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed._devices_of_task() == devices


def test_options_before_the_command_describe_the_processes():
    argv = ["--coordinator=h:1", "--num-processes", "2", "--process-id=1", "pretrain", "--x"]
    given = {"coordinator": "h:1", "num_processes": 2, "process_id": 1}
    assert distributed_flags.options(argv) == (given, ["pretrain", "--x"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-processes", "two", "pretrain"], "--num-processes is 'two'; give a number"),
        (["--timeout"], "--timeout needs a value"),
        (["--process-id", "0", "report", "run"], "several processes share pretrain, evaluate"),
        (["--process-id", "0"], "no command"),
    ],
)
def test_wrong_options_before_the_command_are_reported(argv, message, capfd):
    assert cli.main(argv) == 2
    assert message in capfd.readouterr().err


def test_slices_follow_one_another():
    devices = [types.SimpleNamespace(id=i, slice_index=i % 2) for i in range(6)]
    slices = [[device.id for device in members] for members in spmd.by_slice(devices)]
    assert slices == [[0, 2, 4], [1, 3, 5]]
    assert len(spmd.by_slice(jax.devices())) == 1


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("127.0.0.1:1234", "127.0.0.1:1234"),
        ("127.0.0.2:1", "127.0.0.2:1"),
        ("[::1]:1234", "[::1]:1234"),
        ("localhost:1234", "localhost:1234"),
        ("10.0.0.1:1234", None),
        ("node-0.cluster:1234", None),
    ],
)
def test_a_coordinator_at_a_loopback_address_listens_on_loopback_only(address, bound):
    given = distributed._arguments(address, 2, 0)
    assert given["coordinator_address"] == address
    assert given.get("coordinator_bind_address") == bound


LISTEN = """
import sys
from cssl_jax.runtime import distributed
distributed.start(sys.argv[1], 2, 0, timeout=60)
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/net/tcp").exists(), reason="no Linux")
def test_the_port_of_a_loopback_coordinator_is_closed_to_other_machines():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", LISTEN, f"127.0.0.1:{port}"])
    try:
        end = time.monotonic() + 240
        while not (addresses := listeners(port)) and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.1)
        # 127.0.0.1: by an IPv4 socket, or as an IPv4-mapped address of an IPv6 socket.
        assert set(addresses) <= {"0100007F", "0000000000000000FFFF00000100007F"}
    finally:
        process.kill()
        process.wait()


def listeners(port):
    """Addresses, in the kernel's notation, on which a process listens at a port."""
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in pathlib.Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    local = [line[1].split(":") for line in lines if line[3] == "0A"]
    return [address for address, number in local if int(number, 16) == port]
