"""Check that all devices hold the same values of a replicated state."""

import jax

from cssl_jax.checkpoint import digests
from cssl_jax.errors import RunError
from cssl_jax.train.hooks import Hook, Run


class ReplicaCheck(Hook):
    """Compares the replicas every ``train.check_replicas_every`` steps, and before every save."""

    def __init__(self, run: Run) -> None:
        """Prepares the check; there is none on one device, or if the interval is 0."""
        self._every, mesh = run.config.train.check_replicas_every, run.experiment.mesh
        self._compare = None
        if self._every and mesh.size > 1:
            self._compare = digests.make_replica_check(mesh)
        self._checked = run.step  # last step after which all replicas were identical

    def after_step(self, run: Run, metrics: dict[str, jax.Array], wait: float) -> None:
        """Compares the replicas if the interval has passed."""
        if self._compare is not None and run.step % self._every == 0:
            self.before_save(run)

    def before_save(self, run: Run) -> None:
        """Compares the replicas, unless that was done after this step.

        Raises:
            RunError: The devices hold different values.
        """
        if self._compare is None or self._checked == run.step:
            return
        if differing := self._compare(run.state):
            shown = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
            raise RunError(
                f"devices hold different values of {len(differing)} arrays ({shown}) at step "
                f"{run.step}; they were identical at step {self._checked}, and no checkpoint was "
                "saved since. A device or its memory failed: run the same command to resume, on "
                "other devices if it happens again"
            )
        self._checked = run.step
