"""Return to the last regular checkpoint after a non-finite step."""

from typing import Any

import jax
import numpy as np

from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.optim.step_counter import is_schedule
from cssl_jax.runtime import spmd
from cssl_jax.train.guards.nonfinite import RollbackRequest, check_limit
from cssl_jax.train.hooks import Run
from cssl_jax.train.initial_state import first_state


def roll_back(run: Run, checkpoints: Checkpoints, event: RollbackRequest) -> None:
    """Restores the last regular checkpoint, or the first state if there is none.

    Training continues with the batch after the non-finite one: from the same weights, the same
    batches would fail again. (PaLM, arXiv 2204.02311, sec. 5.1, restarts from a checkpoint before a
    spike and skips the batches around it.)

    Raises:
        RunError: The number of lost steps reaches ``train.nonfinite_limit``.
    """
    mesh, target = run.experiment.mesh, checkpoints.last_regular()
    shapes = jax.eval_shape(lambda: run.state)
    if target is None:
        state, _ = first_state(run.experiment)
    else:
        state = checkpoints.restore(shapes, mesh, target)
    check_limit(
        run.config.train.nonfinite_limit,
        event.skipped - int(state.skipped[0]),
        event.description,
        f"since step {target or 0}, which was restored",
    )
    run.say(
        f"{event.description}: continuing with the next batch from the weights of step "
        f"{target or 0}"
    )

    def placed(value: Any) -> Any:  # one buffer each: the step donates them
        return spmd.replicate(np.asarray(value, np.int32), mesh)

    run.state = state.replace(
        step=placed(event.step),
        skipped=placed([event.skipped, event.row]),
        opt_state=jax.tree.map(
            lambda node: node._replace(count=placed(event.step)) if is_schedule(node) else node,
            state.opt_state,
            is_leaf=is_schedule,
        ),
    )
    run.step = event.step
