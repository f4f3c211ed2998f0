"""Checkpoints of a run through Orbax: save, resume and restore."""

import json
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cssl_jax.checkpoint import checkpoint_policy, digests
from cssl_jax.errors import RunError, UserError
from cssl_jax.runtime import multihost
from cssl_jax.step.state import Evaluated, TrainState, join_state, split_state, trained_model

PyTree = Any
_FAILURES = (OSError, ValueError, RuntimeError)  # Orbax raises the errors of its storage layer
FOLDER = "checkpoints"
DAMAGED = "damaged"  # folder for checkpoints that could not be read
DIGESTS = "digests"  # key in meta: name of a leaf -> digest


class DamagedError(ValueError):
    """The contents of a checkpoint differ from the saved state."""


class Checkpoints:
    """Context manager for the checkpoints of a run.

    It preserves the newest ``keep`` checkpoints, the best one and the newest regular one.

    A checkpoint has three items: ``model`` (the params and model_state that are evaluated),
    ``train`` (the rest of the state) and ``meta`` (JSON: config, normalisation, versions, digests).
    A model can therefore be restored without its optimizer state. A checkpoint is written under a
    temporary name and renamed atomically once it is complete. Digests of all arrays detect later
    damage.

    In a multi-process run, all processes open, save and restore at the same step and from the same
    folder. Only the primary process writes files other than the arrays of other processes.
    """

    def __init__(
        self,
        run: pathlib.Path,
        *,
        keep: int = 2,
        read_only: bool = False,
        regular: Callable[[int], bool] = lambda step: True,
        evaluated: Evaluated = trained_model,
    ) -> None:
        """Opens the folder of a run's checkpoints.

        Args:
            run: Folder of the run; checkpoints are in its sub-folder "checkpoints".
            keep: Number of newest checkpoints to preserve.
            read_only: True to open the folder without changing it.
            regular: Predicate of a step, ``train.intervals.Intervals.regular``; by default all
                steps are regular.
            evaluated: ``Method.evaluated`` of the run's method, which selects the item ``model``;
                by default the parameters that are trained.

        Raises:
            RunError: The score of a checkpoint is damaged, and ``read_only`` is True.
            UserError: The processes do not see the same checkpoints.
        """
        self._run, self._folder = run, (run / FOLDER).absolute()
        self._regular, self._evaluated = regular, evaluated
        multihost.run_on_primary(lambda: _prepare(self._folder, read_only))
        options = checkpoint_policy.options(keep, regular, read_only)
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        multihost.require_same({f"checkpoints in {self._folder}": self.steps})

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        if isinstance(error[1], Exception) and multihost.is_peer_lost(error[1]):
            return  # an unfinished save waits for the lost process until JAX ends this one too
        try:
            self._manager.close()  # waits for an unfinished save
        except _FAILURES as failure:
            if error[0] is None:
                raise self._not_written(failure) from failure

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint; None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    @property
    def best(self) -> int | None:
        """Step of the best checkpoint; of the newest one if no checkpoint was evaluated."""
        return self._manager.best_step() or self.latest

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, in ascending order."""
        return sorted(self._manager.all_steps())

    def last_regular(self) -> int | None:
        """Newest regular step, after all saves have finished; None if there is none."""
        self.wait()
        return max(filter(self._regular, self.steps), default=None)

    def save(self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float]) -> None:
        """Starts writing a state in the background.

        Args:
            state: Replicated state to save; its step names the checkpoint.
            meta: JSON values to store with the state, such as the config.
            metrics: Metrics of an evaluation. They rank the checkpoint if they contain one of
                ``policy.RANKING_METRICS``.

        Raises:
            RunError: This checkpoint or the previous one cannot be written, or Orbax declined to
                save, which Orbax reports by its return value only.
        """
        step = int(state.step)
        tree = self._items(state)
        values = jax.device_get(digests.digests(tree)).tolist()
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(tree["model"]),
            train=ocp.args.StandardSave(tree["train"]),
            meta=ocp.args.JsonSave(
                {**meta, DIGESTS: dict(zip(digests.names(tree), values, strict=True))}
            ),
        )
        ranked = metrics if checkpoint_policy.is_ranked(metrics) else None
        try:
            saved = self._manager.save(step, args=items, metrics=ranked)
        except _FAILURES as failure:  # of this save or of the previous one in the background
            raise self._not_written(failure) from failure
        if not saved:
            raise RunError(
                f"checkpoint of step {step} was not written; the newest in {self._folder} is step "
                f"{self.latest}; remove newer checkpoints or use another --workdir"
            )

    def replace(self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float]) -> None:
        """Saves a step again, with metrics that its checkpoint does not have yet."""
        self._manager.delete(int(state.step))
        self.save(state, meta, metrics)

    def wait(self) -> None:
        """Waits until all checkpoints are written.

        Raises:
            RunError: A checkpoint could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except _FAILURES as failure:
            raise self._not_written(failure) from failure

    def resume(self, like: TrainState, mesh: Mesh) -> tuple[TrainState, dict[str, Any]]:
        """Restores the newest intact checkpoint.

        Newer checkpoints that are damaged are moved to RUN/damaged and reported on stderr.

        Args:
            like: State before the first step, or its shapes.
            mesh: Mesh of the devices that receive the state.

        Returns:
            (state, meta) of the newest intact checkpoint.

        Raises:
            RunError: No checkpoint is intact. All of them remain in place.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps):
            restored, reason = None, ""
            try:
                restored = self.restore(like, mesh, step), self.read_meta(step)
            except Exception as error:  # storage layers raise many types for damaged files
                if multihost.is_peer_lost(error):
                    raise
                reason = _first_line(error)
            # All processes must agree, so damage seen by one process counts for all.
            reason = next(filter(None, multihost.gather(reason)), "")
            if restored is None or reason:
                damaged[step] = reason
                continue
            if damaged:
                self._move_aside(damaged, step)
                self._manager.reload()
            return restored
        reasons = "".join(f"\n  step {step}: {reason}" for step, reason in damaged.items())
        raise RunError(
            f"no checkpoint in {self._folder} can be read; restore one from a copy, or restart in "
            f"another --workdir:{reasons}"
        )

    def restore(self, like: TrainState, mesh: Mesh, step: int | None = None) -> TrainState:
        """Restores a state, replicated over the mesh.

        Args:
            like: State before the first step, or its shapes.
            mesh: Mesh of the devices that receive the state.
            step: Step of the checkpoint; None: the newest one.

        Returns:
            State with the structure, shapes and dtypes of ``like``.

        Raises:
            DamagedError: An array differs from the saved one.
        """
        step = step or self.latest
        items = {
            name: ocp.args.StandardRestore(_abstract(tree, mesh))
            for name, tree in self._items(like).items()
        }
        restored = self._manager.restore(
            step, args=ocp.args.Composite(**items, meta=ocp.args.JsonRestore())
        )
        _check_digests(restored.meta, {"model": restored.model, "train": restored.train})
        return join_state(like, self._evaluated, restored.model, restored.train)

    def restore_model(
        self, like: dict[str, PyTree], mesh: Mesh, step: int | None = None
    ) -> dict[str, PyTree]:
        """Restores the model of a checkpoint, replicated over the mesh.

        Args:
            like: {"params", "model_state"} of the evaluated model, arrays or shapes.
            mesh: Mesh of the devices that receive the model.
            step: Step of the checkpoint; None: the newest one.

        Returns:
            {"params", "model_state"} with the structure of ``like``.

        Raises:
            ValueError: The shapes differ from ``like``, or an array is damaged.
        """
        args = ocp.args.Composite(
            model=ocp.args.StandardRestore(_abstract(like, mesh)), meta=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step or self.latest, args=args)
        _check_digests(restored.meta, {"model": restored.model})
        model: dict[str, PyTree] = restored.model
        return model

    def read_meta(self, step: int | None = None) -> dict[str, Any]:
        """Returns the ``meta`` of a checkpoint, without digests; step None: the newest one.

        Raises:
            UserError: There is no checkpoint.
        """
        step = step or self.latest
        if step is None:
            raise UserError(f"{self._folder} holds no checkpoint; pretrain into this folder first")
        meta: dict[str, Any] = self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        ).meta
        meta.pop(DIGESTS, None)
        return meta

    def _items(self, state: TrainState) -> dict[str, PyTree]:
        """Contents of the items ``model`` and ``train``."""
        model, rest = split_state(state, self._evaluated)
        return {"model": model, "train": rest}

    def _move_aside(self, damaged: dict[int, str], intact: int) -> None:
        """Moves damaged checkpoints to RUN/damaged: their steps can be saved again.

        The files are not deleted, so that a user can inspect them.
        """

        def move() -> None:
            for step, reason in damaged.items():
                path = self._run / DAMAGED / str(step)
                shutil.rmtree(path, ignore_errors=True)
                path.parent.mkdir(exist_ok=True)
                (self._folder / str(step)).replace(path)
                _print_to_stderr(
                    f"checkpoint of step {step} is damaged ({reason}): moved to {path}; resuming "
                    f"from step {intact}"
                )

        multihost.run_on_primary(move)

    def _not_written(self, failure: BaseException) -> RunError:
        if multihost.is_peer_lost(failure):
            return multihost.lost_peer_error(failure)
        reason = _first_line(failure)
        return RunError(
            f"a checkpoint could not be written to {self._folder}: {reason}; free disk space or "
            "get write access, then run the same command to resume from the previous checkpoint"
        )


def _check_digests(meta: dict[str, Any], tree: PyTree) -> None:
    expected = meta.get(DIGESTS, {})
    actual = jax.device_get(digests.digests(tree)).tolist()
    for name, digest in zip(digests.names(tree), actual, strict=True):
        if expected.get(name, digest) != digest:
            raise DamagedError(f"{name} differs from the saved array")


def _prepare(folder: pathlib.Path, read_only: bool) -> None:
    """Creates the folder and removes damaged score files.

    Orbax fails on an unreadable score. The arrays of such a checkpoint are intact, so it stays and
    only loses its rank.
    """
    if not read_only:
        folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("[0-9]*/metrics/metrics"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            if read_only:
                raise RunError(
                    f"{path} is damaged; delete this file, which only ranks a checkpoint"
                ) from None
            path.unlink()
            _print_to_stderr(
                f"{path} was damaged and has been deleted: this checkpoint is no longer ranked"
            )


def _print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) < 200 else lines[0][:200] + "..."


def _abstract(tree: PyTree, mesh: Mesh) -> PyTree:
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
    )
