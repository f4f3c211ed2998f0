"""Training loop: step, evaluate, save, and recover from non-finite losses."""

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.data.pipeline.prefetch import place_host_batches
from cssl_jax.errors import InterruptedRunError, StoppedRunError
from cssl_jax.evaluate.scores import Scores
from cssl_jax.runtime import multihost, process, spmd
from cssl_jax.train.compiled_step import compiled_step
from cssl_jax.train.guards.nonfinite import RollbackRequest
from cssl_jax.train.guards.rollback import roll_back
from cssl_jax.train.guards.stop_vote import StopVote
from cssl_jax.train.hooks import Hook, Run
from cssl_jax.train.intervals import Intervals
from cssl_jax.train.online import OnlineEvaluation

UNSCORED = "evaluation_due"  # key in a checkpoint's meta: evaluation of its step was interrupted
_SAVE = 1  # request code: save; larger codes are signal numbers


class Trainer:
    """Trains, evaluates and saves until the end of the run; calls the hooks on the way.

    Args:
        run: The run at its first step of this process; the loop keeps it up to date.
        evaluation: Evaluators of the model.
        checkpoints: Checkpoints of the run.
        signals: Signals that have arrived.
        hooks: The run's own duties and then those of the user; see ``train.hooks``.
    """

    def __init__(
        self,
        run: Run,
        evaluation: OnlineEvaluation,
        checkpoints: Checkpoints,
        signals: process.SignalRecorder,
        hooks: Sequence[Hook],
    ) -> None:
        self._run, self._evaluation, self._hooks = run, evaluation, hooks
        self._checkpoints, self._signals = checkpoints, signals
        self._intervals = Intervals(run.config.train, run.experiment.sampler.steps_per_epoch)
        self._stop_vote = StopVote(run.experiment.mesh)

    def train(self) -> Scores:
        """Runs the remaining steps; returns the metrics of the last evaluation.

        Raises:
            InterruptedRunError: A signal arrived; the state is saved.
            StoppedRunError: A hook stopped the run; the state is saved.
            RunError: The run cannot continue.
        """
        run = self._run
        metrics = Scores()
        with contextlib.ExitStack() as ends:
            multihost.run_on_all(lambda: self._start(ends))
            if run.unscored:
                metrics = self._finish(evaluate=True, again=True)
            step = compiled_step(run.experiment)
            pipeline = run.experiment.pipeline
            constants = spmd.put_constants(
                pipeline.constants,
                run.experiment.mesh,
                run.config.runtime.backend,
                pipeline.split_constants,
            )
            while run.step < run.total_steps:
                try:
                    metrics = self._steps(step, constants)
                except RollbackRequest as event:
                    roll_back(run, self._checkpoints, event)
                    for hook in self._hooks:
                        hook.on_rollback(run)
                    if self._intervals.regular(run.step):  # what was due after that step
                        metrics = self._finish(evaluate=self._intervals.evaluates(run.step))
        return metrics

    def _start(self, ends: contextlib.ExitStack) -> None:
        """Starts the hooks; those that have started are ended with ``ends``."""
        for hook in self._hooks:
            hook.on_start(self._run)
            ends.push(functools.partial(_end, hook, self._run))

    def _steps(self, step: Callable[..., Any], constants: Any) -> Scores:
        """Trains to the end of the run; returns the metrics of the last evaluation."""
        run, experiment = self._run, self._run.experiment
        metrics = Scores()
        host_batches = place_host_batches(
            experiment.pipeline,
            experiment.mesh,
            run.config.runtime.backend,
            run.step,
            run.total_steps,
        )
        try:
            for host_batch, wait in self._timed(host_batches):
                for hook in self._hooks:
                    hook.before_step(run)
                run.state, step_metrics = step(run.state, constants, host_batch)
                run.step += 1
                for hook in self._hooks:
                    hook.after_step(run, step_metrics, wait)
                metrics = self._after_step()
        finally:
            host_batches.close()
        return metrics

    def _after_step(self) -> Scores:
        """Does what is due after a step: evaluate, save, stop for a signal."""
        done = self._run.step
        request = self._signals.signal_number or 0
        if not request and multihost.is_primary() and self._intervals.overdue():
            request = _SAVE
        agreed = self._stop_vote.poll(done, request)
        stop = agreed > _SAVE and done < self._run.total_steps
        if not agreed and not self._intervals.regular(done):
            return Scores()
        metrics = self._finish(evaluate=self._intervals.evaluates(done))
        if stop:
            self._stop()
        return metrics

    def _finish(self, *, evaluate: bool, again: bool = False) -> Scores:
        """Evaluates and saves; returns the metrics, empty without an evaluation.

        Args:
            evaluate: True to evaluate before saving.
            again: True if the state was saved when its evaluation was interrupted.
        """
        run = self._run
        metrics = Scores()
        scores: dict[str, float] = {}
        for hook in self._hooks:  # also reports a non-finite step before its state is saved
            hook.before_save(run)
        meta = run.experiment.meta
        if evaluate:
            try:
                self._stop_before_evaluating()
                with self._signals.breakable(shared=True):
                    metrics, found = self._evaluation.evaluate(
                        run.state.evaluated(run.experiment.method), full=run.step == run.total_steps
                    )
            except InterruptedRunError:
                if not again:  # else the state is saved already
                    self._checkpoints.save(run.state, {**meta, UNSCORED: True}, {})
                self._stop()
            # All processes use the primary process's scores: float noise between hosts could rank
            # checkpoints differently.
            scores = multihost.broadcast_from_primary(lambda: found)
            for hook in self._hooks:
                hook.after_evaluation(run, scores)
        save = self._checkpoints.replace if again else self._checkpoints.save
        save(run.state, meta, scores)
        self._intervals.saved()
        try:
            for hook in self._hooks:
                hook.after_save(run, scores)
        except StoppedRunError:
            self._checkpoints.wait()
            raise
        return metrics

    def _stop_before_evaluating(self) -> None:
        """Stops before an evaluation if any process has received a signal.

        An evaluation is a collective: one process cannot leave it alone.

        Raises:
            InterruptedRunError: A process has received a signal.
        """
        if self._stop_vote.poll_now(self._signals.signal_number or 0) > _SAVE:
            raise InterruptedRunError(self._signals.name)

    def _stop(self) -> None:
        begun = time.monotonic()
        self._checkpoints.wait()
        raise InterruptedRunError(
            f"{self._signals.name or 'a signal to another process'} at step {self._run.step} "
            f"of {self._run.total_steps}: saved (waited {time.monotonic() - begun:.1f} s for it); "
            "run the same command to resume"
        )

    def _timed(self, host_batches: Generator[Any]) -> Iterator[tuple[Any, float]]:
        """Yields each host batch and the seconds spent waiting for it; a signal ends the wait."""
        run = self._run
        while True:
            start = time.perf_counter()
            try:
                ended = run.step >= run.total_steps
                # A signal that has arrived since the step counts as well; several processes act on
                # it at a step that all have agreed on.
                with nullcontext() if ended else self._signals.breakable(shared=True):
                    host_batch = next(host_batches)
            except StopIteration:
                return
            except InterruptedRunError:
                if run.step > (self._checkpoints.latest or 0):
                    self._finish(evaluate=False)
                self._stop()
            yield host_batch, time.perf_counter() - start


def _end(hook: Hook, run: Run, kind: Any, error: BaseException | None, traceback: Any) -> None:
    hook.on_end(run, error)
