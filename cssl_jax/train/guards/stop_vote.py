"""Cross-process consensus on save and stop requests."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cssl_jax.runtime import multihost, spmd

EVERY = 8  # steps between two votes of the processes


class StopVote:
    """Finds the largest request of any process, at the same step in all processes.

    A save is a collective call, so all processes must start it after the same step. A signal may
    reach one host only, or hosts at different times, and clocks differ.

    In a single process a request takes effect immediately. In a multi-process run, the devices
    compute the maximum of all requests every ``EVERY`` steps, asynchronously to the training steps.
    The result is read at the next vote, when it is already available, so no device waits. A request
    takes effect within 2 ``EVERY`` steps. JAX's ``reached_preemption_sync_point`` covers SIGTERM
    only.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._is_single = multihost.is_single_process()
        self._sharding = NamedSharding(mesh, PartitionSpec(spmd.AXIS))
        replicated = NamedSharding(mesh, PartitionSpec())
        self._maximum = jax.jit(lambda requests: requests.max(), out_shardings=replicated)
        self._shape = (mesh.size,)
        self._pending: jax.Array | None = None  # result of the previous vote

    @staticmethod
    def poll_now(request: int) -> int:
        """Returns the largest request of any process now; a blocking collective call."""
        return max(map(int, multihost.gather(request)))

    def poll(self, step: int, request: int) -> int:
        """Returns the request that takes effect after ``step`` steps; 0: none.

        Args:
            step: Number of completed steps. All processes must call this method at every step.
            request: Request of this process; 0: none.
        """
        if self._is_single:
            return request
        if step % EVERY:
            return 0
        consensus = 0 if self._pending is None else int(self._pending)
        requests = jax.make_array_from_callback(
            self._shape,
            self._sharding,
            lambda index: np.full(self._shape, request, np.int32)[index],
        )
        # Requests that are still pending were just granted. Another vote would grant them twice.
        self._pending = None if consensus else self._maximum(requests)
        return consensus
