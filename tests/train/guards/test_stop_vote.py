"""Cross-process consensus on requests: step at which all processes act."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import pytest

from cssl_jax.runtime import spmd
from cssl_jax.train.guards.stop_vote import EVERY, StopVote

CODE = """
import sys
import jax
port, rank = sys.argv[1], int(sys.argv[2])
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
from cssl_jax.runtime import spmd
from cssl_jax.train.guards.stop_vote import StopVote

vote = StopVote(spmd.make_mesh())
for step in range(1, 61):
    # The clock of process 0 asks for a save at step 10; process 1 alone gets SIGTERM at step 30.
    request = 15 if rank == 1 and step >= 30 else int(rank == 0 and 10 <= step <= 20)
    if consensus := vote.poll(step, request):
        print(step, consensus, flush=True)
    if consensus > 1:
        break
"""


def test_a_single_process_acts_immediately():
    vote = StopVote(spmd.make_mesh(jax.devices()[:2]))
    assert [vote.poll(step, request) for step, request in [(1, 0), (2, 15), (3, 1)]] == [
        0,
        15,
        1,
    ]


@pytest.mark.slow
def test_two_processes_act_after_the_same_step_on_the_request_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = pathlib.Path(__file__).resolve().parents[3]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "XLA_FLAGS": os.environ["CSSL_TEST_XLA_FLAGS"],
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, port, str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [child.communicate(timeout=200) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], outputs
    # Gloo prints to the same stream; its lines do not start with a digit.
    first, second = ([x for x in out.splitlines() if x[:1].isdigit()] for out, _ in outputs)
    assert first == second
    steps, requests = zip(*(map(int, line.split()) for line in first), strict=True)
    assert requests[-1] == 15
    assert 30 <= steps[-1] <= 30 + 2 * EVERY
    assert set(requests[:-1]) == {1}
    assert 10 <= steps[0] <= 10 + 2 * EVERY
