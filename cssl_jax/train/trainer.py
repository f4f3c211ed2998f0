"""All steps of a run: what each is followed by, and how the run goes on when one goes wrong."""

import pathlib
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np

from cssl_jax import recipes
from cssl_jax.checkpoint import digests
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.config import Config
from cssl_jax.data.pipeline.prefetch import place_host_batches
from cssl_jax.errors import InterruptedRunError, RunError, StoppedRunError
from cssl_jax.experiment.experiment import Parts
from cssl_jax.optim.norms import parameter_groups
from cssl_jax.optim.trust_ratio import trust_figures
from cssl_jax.runtime import multihost, process, spmd
from cssl_jax.step.state import TrainState, is_schedule
from cssl_jax.step.train_step import make_train_step
from cssl_jax.train.guards import nonfinite
from cssl_jax.train.guards.nonfinite import NonFiniteGuard, RollBack
from cssl_jax.train.guards.stop_vote import StopVote
from cssl_jax.train.intervals import Intervals
from cssl_jax.train.logging.logger import RunLogger
from cssl_jax.train.online import OnlineEvaluation
from cssl_jax.train.profile import FOLDER as TRACES
from cssl_jax.train.profile import Profile

# (epoch, figures of its evaluation) -> why the run should end there, "" to go on.
Watch = Callable[[int, dict[str, float]], str]
UNSCORED = "evaluation_due"  # in a checkpoint's meta: its step's evaluation was broken off
_SAVE = 1  # a wish; larger ones are the numbers of signals


class Training:
    """Steps, evaluates and saves until the run is at its end.

    Args:
        config: The run.
        run: Its folder.
        parts: What it is made of.
        evaluation: Evaluators of its model.
        checkpoints: Where it saves.
        interruption: Signals that came.
        first: Makes the state before the first step.
        state: Where it goes on, at step ``start``.
        start: Steps that are behind it.
        unscored: The evaluation of that very step is still to be made.
        profile: Steps to trace.
        watch: Sees every online evaluation but the last, once it is saved.
    """

    def __init__(
        self,
        config: Config,
        run: pathlib.Path,
        parts: Parts,
        evaluation: OnlineEvaluation,
        checkpoints: Checkpoints,
        interruption: process.Interruption,
        *,
        first: Callable[[], TrainState],
        state: TrainState,
        start: int,
        unscored: bool = False,
        profile: Profile | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch
        self._config, self._run = config, run
        self._parts, self._evaluation = parts, evaluation
        self._checkpoints = checkpoints
        self._interruption, self._first = interruption, first
        self._state, self._done, self._unscored = state, start, unscored
        self._intervals = Intervals(config.train, parts.sampler.steps_per_epoch)
        self._profile = profile or Profile(run, "")
        self._stop_vote = StopVote(parts.mesh)
        self._replicas = None
        if config.train.check_replicas_every and parts.mesh.size > 1:
            self._replicas = digests.make_replica_check(parts.mesh)
        self._checked = start  # the last step after which all replicas were equal
        facts = {"config_hash": recipes.config_hash(config), "versions": process.versions()}
        self._guard = NonFiniteGuard(
            run / nonfinite.FOLDER,
            config.train,
            parts.pipeline,
            parameter_groups(state.params),
            facts,
        )
        self._logger = RunLogger(
            run,
            config,
            parts.pipeline,
            start,
            parts.total_steps,
            self._guard,
            unscored=unscored,
        )

    def run(self) -> tuple[TrainState, dict[str, Any]]:
        """The last state and its figures.

        Raises:
            InterruptedRunError: A signal came; the state is saved.
            StoppedRunError: The watch ended it; the state is saved.
            RunError: The run cannot go on.
        """
        figures: dict[str, Any] = {}
        with self._logger:
            if self._unscored:
                figures = self._finish(self._done, evaluate=True, again=True)
            step = self._compiled()
            pipeline = self._parts.pipeline
            constants = spmd.put_constants(
                pipeline.constants,
                self._parts.mesh,
                self._config.runtime.backend,
                pipeline.split_constants,
            )
            while self._done < self._parts.total_steps:
                try:
                    figures = self._steps(step, constants)
                except RollBack as sick:
                    self._roll_back(sick)
                    if self._intervals.regular(self._done):  # what was due after the sick step
                        evaluate = self._intervals.evaluates(self._done)
                        figures = self._finish(self._done, evaluate=evaluate)
        return self._state, figures

    def _compiled(self) -> Callable[..., Any]:
        parts = self._parts
        train_step = make_train_step(
            parts.method,
            parts.optimizer,
            parts.schedule,
            parts.pipeline.make_batch,
            total_steps=parts.total_steps,
            axis_name=spmd.AXIS,
            micro_batches=parts.micro_batches,
            frozen_norm=self._config.train.micro_batch_norm == "frozen",
            figures=trust_figures(self._config.optimizer),
        )
        return spmd.data_parallel(
            train_step,
            parts.mesh,
            self._config.runtime.backend,
            split_constants=parts.pipeline.split_constants,
            deterministic=self._config.runtime.deterministic,
        )

    def _steps(self, step: Callable[..., Any], constants: Any) -> dict[str, Any]:
        """To the end of the run, whose figures are returned."""
        parts = self._parts
        figures: dict[str, Any] = {}
        host_batches = place_host_batches(
            parts.pipeline, parts.mesh, self._config.runtime.backend, self._done, parts.total_steps
        )
        try:
            for host_batch, wait in self._timed(host_batches):
                self._profile.before(self._done + 1)
                self._state, metrics = step(self._state, constants, host_batch)
                self._done += 1
                if self._profile.after(self._done, metrics):
                    self._logger.say(f"step {self._done}: traced into {self._run / TRACES}")
                self._logger.add(self._done, metrics, wait)
                figures = self._after(self._done)
        finally:
            self._profile.close()
            host_batches.close()
        return figures

    def _after(self, done: int) -> dict[str, Any]:
        """What is due after a step: a check, an evaluation, a save, the end by a signal."""
        every = self._config.train.check_replicas_every
        if self._replicas is not None and done % every == 0:
            self._check_replicas(done)
        request = self._interruption.signal_number or 0
        if not request and multihost.is_primary() and self._intervals.overdue():
            request = _SAVE
        agreed = self._stop_vote.reached(done, request)
        stop = agreed > _SAVE and done < self._parts.total_steps
        if not agreed and not self._intervals.regular(done):
            return {}
        figures = self._finish(done, evaluate=self._intervals.evaluates(done))
        if stop:
            self._stop(done)
        return figures

    def _finish(self, done: int, *, evaluate: bool, again: bool = False) -> dict[str, Any]:
        """Evaluates and saves; figures are empty without an evaluation."""
        self._logger.flush()  # a step that was not finite is known before its state is saved
        self._check_replicas(done)
        meta, figures, scores, found = self._parts.meta, {}, {}, {}
        evaluator, health = self._evaluation.evaluator, self._evaluation.health
        if evaluate:
            try:
                self._stop_before_evaluating()
                with self._interruption.breakable(shared=True):
                    features = evaluator.features(self._state.model)
                    figures = evaluator.judge(features, full=done == self._parts.total_steps)
                    found = health.figures(features) if health else {}
            except InterruptedRunError:
                if not again:  # else it is saved already
                    self._checkpoints.save(self._state, {**meta, UNSCORED: True}, {})
                self._stop(done)
            # Those of one process rank checkpoints in all, whatever the last bits are on its host.
            scores = multihost.broadcast_from_primary(lambda: {**evaluator.flat(figures), **found})
            self._logger.scores(done, scores)
        save = self._checkpoints.replace if again else self._checkpoints.save
        save(self._state, meta, scores)
        self._intervals.saved()
        if self._watch is not None and evaluate and done < self._parts.total_steps:
            epoch = done // self._parts.sampler.steps_per_epoch
            if reason := self._watch(epoch, scores):
                self._checkpoints.wait()
                raise StoppedRunError(reason)
        return figures

    def _stop_before_evaluating(self) -> None:
        """Several processes do not break an evaluation off: they agree before it.

        Raises:
            InterruptedRunError: A signal came to one of them.
        """
        if self._stop_vote.at_once(self._interruption.signal_number or 0) > _SAVE:
            raise InterruptedRunError(self._interruption.name)

    def _stop(self, done: int) -> None:
        begun = time.monotonic()
        self._checkpoints.wait()
        raise InterruptedRunError(
            f"{self._interruption.name or 'a signal to another process'} at step {done} of "
            f"{self._parts.total_steps}: saved (waited {time.monotonic() - begun:.1f} s for it); "
            "run the same command to go on"
        )

    def _timed(self, host_batches: Generator[Any]) -> Iterator[tuple[Any, float]]:
        """Each feed with the seconds it was waited for; a signal does not wait for a slow one."""
        while True:
            start = time.perf_counter()
            try:
                ended = self._done >= self._parts.total_steps
                # Also by a signal that came since the step; several processes act on one at a step
                # that all agree on.
                with nullcontext() if ended else self._interruption.breakable(shared=True):
                    host_batch = next(host_batches)
            except StopIteration:
                return
            except InterruptedRunError:
                if self._done > (self._checkpoints.latest or 0):
                    self._finish(self._done, evaluate=False)
                self._stop(self._done)
            yield host_batch, time.perf_counter() - start

    # ------------------------------------------------------------------------------- sick training

    def _roll_back(self, sick: RollBack) -> None:
        """Puts the last regular checkpoint in place of the state.

        The order of batches goes on after the one that was not finite: from the same weights the
        same batches would give the same again. (PaLM, arXiv 2204.02311, sec. 5.1, goes on from a
        checkpoint before a spike and leaves out the batches around it.)
        """
        target = self._checkpoints.last_regular()
        shapes = jax.eval_shape(lambda: self._state)
        if target is None:
            state = self._first()
        else:
            state = self._checkpoints.restore(shapes, self._parts.mesh, target)
        lost = sick.skipped - int(state.skipped[0])
        self._guard.limit(lost, sick.words, f"since step {target or 0}, which was gone back to")
        self._logger.say(
            f"{sick.words}: going on with the next batch from the weights of step {target or 0}"
        )

        def placed(value: Any) -> Any:  # a buffer for each: they are donated
            return spmd.replicate(np.asarray(value, np.int32), self._parts.mesh)

        self._state = state.replace(
            step=placed(sick.step),
            skipped=placed([sick.skipped, sick.row]),
            opt_state=jax.tree.map(
                lambda node: node._replace(count=placed(sick.step)) if is_schedule(node) else node,
                state.opt_state,
                is_leaf=is_schedule,
            ),
        )
        self._done = sick.step

    def _check_replicas(self, done: int) -> None:
        if self._replicas is None or self._checked == done:
            return
        if unlike := self._replicas(self._state):
            shown = ", ".join(unlike[:3]) + (", ..." if len(unlike) > 3 else "")
            raise RunError(
                f"devices hold different values of {len(unlike)} arrays ({shown}) at step {done}: "
                f"they were equal at step {self._checked}, and no checkpoint was saved since. A "
                "device or its memory failed: run the same command to go on, on other devices if "
                "it comes again"
            )
        self._checked = done
