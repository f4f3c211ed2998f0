"""What one process wishes, known to all of them at the same step."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cssl_jax.runtime import multihost, spmd

EVERY = 8  # steps between two questions to the other processes


class StopVote:
    """The largest wish of any process, at a step on which all of them agree.

    A save is a collective act: all processes must begin it after the same step, though a signal
    reaches one host only, or each at another time, and though clocks differ. In one process a wish
    is granted at once. In several, every ``EVERY`` steps the devices take the maximum of all
    wishes, beside the train steps, and it is read when the next question is asked: by then it is
    there, and no device has waited. A signal is answered within 2 ``EVERY`` steps. (JAX's own
    ``reached_preemption_sync_point`` agrees on SIGTERM only.)
    """

    def __init__(self, mesh: Mesh) -> None:
        self._alone = multihost.is_single_process()
        self._sharding = NamedSharding(mesh, PartitionSpec(spmd.AXIS))
        replicated = NamedSharding(mesh, PartitionSpec())
        self._largest = jax.jit(lambda requests: requests.max(), out_shardings=replicated)
        self._shape = (mesh.size,)
        self._asked: jax.Array | None = None

    @staticmethod
    def at_once(request: int) -> int:
        """The largest wish of any process now; all wait for the answer."""
        return max(multihost.gather(request))

    def reached(self, step: int, request: int) -> int:
        """What is agreed on after ``step`` steps: 0, or the largest wish.

        Args:
            step: The same in all processes, each of which asks at every step.
            request: 0 for none.
        """
        if self._alone:
            return request
        if step % EVERY:
            return 0
        answer = 0 if self._asked is None else int(self._asked)
        requests = jax.make_array_from_callback(
            self._shape,
            self._sharding,
            lambda index: np.full(self._shape, request, np.int32)[index],
        )
        self._asked = None if answer else self._largest(requests)
        return answer
