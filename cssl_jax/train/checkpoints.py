"""The Orbax room: save, resume, and load parts of a run."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cssl_jax.errors import RunError, UserError
from cssl_jax.train.state import TrainState

PyTree = Any
_FAILURES = (OSError, ValueError, RuntimeError)  # Orbax passes on what its storage raises
FOLDER = "checkpoints"
BEST = ("knn.top1", "view_retrieval")  # what "best" is judged by: with labels, without


def _score(metrics: dict[str, float]) -> float:
    return next(metrics[name] for name in BEST if name in metrics)


class Checkpoints:
    """Checkpoints of a run: the newest ``keep`` and the best; a context manager.

    Items of a checkpoint: ``model`` (params, model_state), ``train`` (the rest of the state) and
    ``meta`` (JSON: config, normalisation, versions); an encoder loads without its optimizer.
    """

    def __init__(self, run: pathlib.Path, *, keep: int = 2, read_only: bool = False) -> None:
        policies = ocp.checkpoint_managers
        # Retention by max_to_keep with best_fn deletes the newest checkpoint; a policy without
        # best_fn writes no metrics. Both together keep what is meant.
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            best_fn=_score,
            best_mode="max",
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(
                        get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
        )
        self._folder = (run / FOLDER).absolute()
        if not read_only:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._manager.close()  # waits for the save under way
        except _FAILURES as failure:
            if error[0] is None:
                raise self._not_written(failure) from failure

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the best checkpoint; the newest where none was evaluated."""
        return self._manager.best_step() or self.latest

    @property
    def steps(self) -> list[int]:
        """Steps that are kept."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float]) -> None:
        """Starts writing the state in the background; without a ``BEST`` figure it is not ranked.

        Raises:
            RunError: It cannot be written, or Orbax declined, which it does without an error.
        """
        step = int(state.step)
        train = {"step": state.step, "opt_state": state.opt_state}
        if state.method_state:
            train["method_state"] = state.method_state
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(state.model),
            train=ocp.args.StandardSave(train),
            meta=ocp.args.JsonSave(meta),
        )
        ranked = metrics if any(name in metrics for name in BEST) else None
        try:
            saved = self._manager.save(step, args=items, metrics=ranked)
        except _FAILURES as failure:  # of this save, or of the one before, in the background
            raise self._not_written(failure) from failure
        if not saved:
            raise RunError(
                f"checkpoint of step {step} was not written; the newest in {self._folder} is step "
                f"{self.latest}; remove newer checkpoints or use another --workdir"
            )

    def restore(self, like: TrainState, mesh: Mesh) -> TrainState:
        """The newest state, on every device of the mesh, shaped as ``like`` (arrays or shapes)."""
        train = {"step": like.step, "opt_state": like.opt_state}
        if like.method_state:
            train["method_state"] = like.method_state
        restored = self._manager.restore(
            self.latest,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(_abstract(like.model, mesh)),
                train=ocp.args.StandardRestore(_abstract(train, mesh)),
            ),
        )
        return TrainState(
            **restored.model,
            **{"method_state": like.method_state, **restored.train},
        )

    def restore_model(
        self, like: dict[str, PyTree], mesh: Mesh, step: int | None = None
    ) -> dict[str, PyTree]:
        """{"params", "model_state"} of a step; None is the newest."""
        args = ocp.args.Composite(model=ocp.args.StandardRestore(_abstract(like, mesh)))
        return self._manager.restore(step or self.latest, args=args).model

    def meta(self) -> dict[str, Any]:
        """What was saved beside the newest checkpoint.

        Raises:
            UserError: There is no checkpoint.
        """
        if self.latest is None:
            raise UserError(f"{self._folder} holds no checkpoint; pretrain into this folder first")
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(self.latest, args=args).meta

    def _not_written(self, failure: BaseException) -> RunError:
        reason = str(failure).splitlines()[0]
        return RunError(
            f"a checkpoint could not be written to {self._folder}: {reason}; make room or "
            "get write access, then run the same command to go on from the one before"
        )


def _abstract(tree: PyTree, mesh: Mesh) -> PyTree:
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
    )
