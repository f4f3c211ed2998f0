"""The Orbax room: save, resume, and load parts of a run."""

import json
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cssl_jax.checkpoint import digests
from cssl_jax.checkpoint import policy as checkpoint_policy
from cssl_jax.errors import RunError, UserError
from cssl_jax.runtime import multihost
from cssl_jax.step.state import TrainState

PyTree = Any
_FAILURES = (OSError, ValueError, RuntimeError)  # Orbax passes on what its storage raises
FOLDER = "checkpoints"
DAMAGED = "damaged"  # checkpoints that could not be read
DIGESTS = "digests"  # in meta: name of a leaf -> its digest


class DamagedError(ValueError):
    """A checkpoint does not hold what was saved."""


class Checkpoints:
    """Checkpoints of a run: the newest ``keep``, the best, the newest regular; a context manager.

    Items of a checkpoint: ``model`` (params, model_state), ``train`` (the rest of the state) and
    ``meta`` (JSON: config, normalisation, versions, digests); an encoder loads without its
    optimizer. A checkpoint is written beside its place and gets its name in one step once it is
    whole; what it held is known by its digests, so that damage done later is found as well.

    Of several processes all open, save and restore, at the same step and from one folder; the first
    writes what is not an array of its own.
    """

    def __init__(
        self,
        run: pathlib.Path,
        *,
        keep: int = 2,
        read_only: bool = False,
        regular: Callable[[int], bool] = lambda step: True,
    ) -> None:
        """Opens the folder of a run's checkpoints; ``regular`` is ``cadence.Cadence.regular``.

        Raises:
            UserError: A process does not see the same checkpoints as the first.
        """
        self._run, self._folder = run, (run / FOLDER).absolute()
        self._regular = regular
        multihost.run_on_primary(lambda: _prepare(self._folder, read_only))
        options = checkpoint_policy.options(keep, regular, read_only)
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        multihost.require_same({f"checkpoints in {self._folder}": self.steps})

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        if isinstance(error[1], Exception) and multihost.is_lost(error[1]):
            return  # a save under way waits for the lost process until JAX ends this one too
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

    def last_regular(self) -> int | None:
        """The newest step that is regular, once all saves are done."""
        self.wait()
        return max(filter(self._regular, self.steps), default=None)

    def save(self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float]) -> None:
        """Starts writing the state in the background; ranked if it has a ``retention.BEST`` figure.

        Raises:
            RunError: It cannot be written, or Orbax declined, which it does without an error.
        """
        step = int(state.step)
        tree = {"model": state.model, "train": _rest(state)}
        found = jax.device_get(digests.digests(tree)).tolist()
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(tree["model"]),
            train=ocp.args.StandardSave(tree["train"]),
            meta=ocp.args.JsonSave(
                {**meta, DIGESTS: dict(zip(digests.names(tree), found, strict=True))}
            ),
        )
        ranked = metrics if checkpoint_policy.is_ranked(metrics) else None
        try:
            saved = self._manager.save(step, args=items, metrics=ranked)
        except _FAILURES as failure:  # of this save, or of the one before, in the background
            raise self._not_written(failure) from failure
        if not saved:
            raise RunError(
                f"checkpoint of step {step} was not written; the newest in {self._folder} is step "
                f"{self.latest}; remove newer checkpoints or use another --workdir"
            )

    def replace(self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float]) -> None:
        """Saves a step anew, with the figures that were missing."""
        self._manager.delete(int(state.step))
        self.save(state, meta, metrics)

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            RunError: It could not be.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except _FAILURES as failure:
            raise self._not_written(failure) from failure

    def resume(self, like: TrainState, mesh: Mesh) -> tuple[TrainState, dict[str, Any]]:
        """The newest state that is whole, and what was saved beside it.

        Newer ones that are damaged are moved to RUN/damaged, and told of.

        Raises:
            RunError: None is whole; they stay where they are.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps):
            found, trouble = None, ""
            try:
                found = self.restore(like, mesh, step), self.meta(step)
            except Exception as error:  # whatever a storage makes of missing or broken files
                if multihost.is_lost(error):
                    raise
                trouble = _first_line(error)
            trouble = next(filter(None, multihost.gather(trouble)), "")
            if found is None or trouble:  # to one process is to all
                damaged[step] = trouble
                continue
            if damaged:
                self._move_aside(damaged, step)
                self._manager.reload()
            return found
        reasons = "".join(f"\n  step {step}: {reason}" for step, reason in damaged.items())
        raise RunError(
            f"no checkpoint in {self._folder} can be read; restore one from a copy, or begin anew "
            f"in another --workdir:{reasons}"
        )

    def restore(self, like: TrainState, mesh: Mesh, step: int | None = None) -> TrainState:
        """A state, on every device of the mesh, shaped as ``like`` (arrays or shapes).

        Args:
            like: The state before the first step, or its shapes.
            mesh: Of devices.
            step: Which; None is the newest.

        Raises:
            DamagedError: It is not what was saved.
        """
        step = step or self.latest
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(_abstract(like.model, mesh)),
                train=ocp.args.StandardRestore(_abstract(_rest(like), mesh)),
                meta=ocp.args.JsonRestore(),
            ),
        )
        _compare(restored.meta, {"model": restored.model, "train": restored.train})
        return TrainState(
            **restored.model,
            **{"method_state": like.method_state, **restored.train},
        )

    def restore_model(
        self, like: dict[str, PyTree], mesh: Mesh, step: int | None = None
    ) -> dict[str, PyTree]:
        """{"params", "model_state"} of a step; None is the newest.

        Raises:
            ValueError: They are not shaped as ``like``, or damaged.
        """
        args = ocp.args.Composite(
            model=ocp.args.StandardRestore(_abstract(like, mesh)), meta=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step or self.latest, args=args)
        _compare(restored.meta, {"model": restored.model})
        return restored.model

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """What was saved beside a checkpoint; None is the newest.

        Raises:
            UserError: There is no checkpoint.
        """
        step = step or self.latest
        if step is None:
            raise UserError(f"{self._folder} holds no checkpoint; pretrain into this folder first")
        meta = self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        ).meta
        meta.pop(DIGESTS, None)
        return meta

    def _move_aside(self, damaged: dict[int, str], whole: int) -> None:
        """Out of the way of a new save of the same step, yet there to be looked at."""

        def move() -> None:
            for step, reason in damaged.items():
                place = self._run / DAMAGED / str(step)
                shutil.rmtree(place, ignore_errors=True)
                place.parent.mkdir(exist_ok=True)
                (self._folder / str(step)).replace(place)
                _say(
                    f"checkpoint of step {step} is damaged ({reason}): moved to {place}; going on "
                    f"from step {whole}"
                )

        multihost.run_on_primary(move)

    def _not_written(self, failure: BaseException) -> RunError:
        if multihost.is_lost(failure):
            return multihost.lost(failure)
        reason = _first_line(failure)
        return RunError(
            f"a checkpoint could not be written to {self._folder}: {reason}; make room or "
            "get write access, then run the same command to go on from the one before"
        )


def _rest(state: TrainState) -> dict[str, PyTree]:
    """The state but for its model; a method without a state of its own has no entry."""
    rest = {"step": state.step, "opt_state": state.opt_state, "skipped": state.skipped}
    return {**rest, "method_state": state.method_state} if state.method_state else rest


def _compare(meta: dict[str, Any], tree: PyTree) -> None:
    expected = meta.get(DIGESTS, {})
    found = jax.device_get(digests.digests(tree)).tolist()
    for name, digest in zip(digests.names(tree), found, strict=True):
        if expected.get(name, digest) != digest:
            raise DamagedError(f"{name} is not what was saved")


def _prepare(folder: pathlib.Path, read_only: bool) -> None:
    """Makes the folder; a checkpoint whose score is broken is whole, but ranked no more."""
    if not read_only:
        folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("[0-9]*/metrics/metrics"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            if read_only:
                raise RunError(
                    f"{path} is damaged; delete it, it ranks a checkpoint only"
                ) from None
            path.unlink()
            _say(f"{path} was damaged and is gone: this checkpoint is not ranked any more")


def _say(text: str) -> None:
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
