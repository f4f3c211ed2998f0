"""Training loop: step, evaluate, save, and recover from non-finite losses."""

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
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.optim.norms import parameter_groups
from cssl_jax.optim.trust_ratio import make_trust_ratio_metrics
from cssl_jax.runtime import multihost, process, spmd
from cssl_jax.step.state import TrainState, is_schedule
from cssl_jax.step.train_step import make_train_step
from cssl_jax.train.guards import nonfinite
from cssl_jax.train.guards.nonfinite import NonFiniteGuard, RollbackRequest
from cssl_jax.train.guards.stop_vote import StopVote
from cssl_jax.train.intervals import Intervals
from cssl_jax.train.logging.logger import RunLogger
from cssl_jax.train.online import OnlineEvaluation
from cssl_jax.train.profile import FOLDER as TRACES
from cssl_jax.train.profile import Profile

# (epoch, metrics of its evaluation) -> reason to stop the run there; "" to continue.
EvaluationCallback = Callable[[int, dict[str, float]], str]
UNSCORED = "evaluation_due"  # key in a checkpoint's meta: evaluation of its step was interrupted
_SAVE = 1  # request code: save; larger codes are signal numbers


class Trainer:
    """Trains, evaluates and saves until the end of the run.

    Args:
        config: The run.
        run: Folder of the run.
        experiment: Data, method, input and optimizer of the run.
        evaluation: Evaluators of the model.
        checkpoints: Checkpoints of the run.
        signals: Signals that have arrived.
        first: Function that builds the state before the first step.
        state: State after ``start`` steps.
        start: Number of completed steps.
        unscored: The evaluation at ``start`` was interrupted and must be run again.
        profile: Steps to trace.
        watch: Called after every online evaluation but the last; see ``pretrain``.
        report_startup: See ``pretrain``.
    """

    def __init__(
        self,
        config: Config,
        run: pathlib.Path,
        experiment: Experiment,
        evaluation: OnlineEvaluation,
        checkpoints: Checkpoints,
        signals: process.SignalRecorder,
        *,
        first: Callable[[], TrainState],
        state: TrainState,
        start: int,
        unscored: bool = False,
        profile: Profile | None = None,
        watch: EvaluationCallback | None = None,
        report_startup: bool = False,
    ) -> None:
        self._watch = watch
        self._config, self._run = config, run
        self._experiment, self._evaluation = experiment, evaluation
        self._checkpoints = checkpoints
        self._signals, self._first = signals, first
        self._state, self._done, self._unscored = state, start, unscored
        self._intervals = Intervals(config.train, experiment.sampler.steps_per_epoch)
        self._profile = profile or Profile(run, "")
        self._stop_vote = StopVote(experiment.mesh)
        self._replicas = None
        if config.train.check_replicas_every and experiment.mesh.size > 1:
            self._replicas = digests.make_replica_check(experiment.mesh)
        self._checked = start  # last step after which all replicas were identical
        facts = {"config_hash": recipes.config_hash(config), "versions": process.versions()}
        self._guard = NonFiniteGuard(
            run / nonfinite.FOLDER,
            config.train,
            experiment.pipeline,
            parameter_groups(state.params),
            facts,
        )
        self._logger = RunLogger(
            run,
            config,
            experiment.pipeline,
            start,
            experiment.total_steps,
            self._guard,
            unscored=unscored,
            report_startup=report_startup,
        )

    def run(self) -> tuple[TrainState, dict[str, Any]]:
        """Runs the remaining steps; returns the last state and its metrics.

        Raises:
            InterruptedRunError: A signal arrived; the state is saved.
            StoppedRunError: The watch stopped the run; the state is saved.
            RunError: The run cannot continue.
        """
        metrics: dict[str, Any] = {}
        with self._logger:
            if self._unscored:
                metrics = self._finish(self._done, evaluate=True, again=True)
            step = self.compiled_step()
            pipeline = self._experiment.pipeline
            constants = spmd.put_constants(
                pipeline.constants,
                self._experiment.mesh,
                self._config.runtime.backend,
                pipeline.split_constants,
            )
            while self._done < self._experiment.total_steps:
                try:
                    metrics = self._steps(step, constants)
                except RollbackRequest as event:
                    self._roll_back(event)
                    if self._intervals.regular(self._done):  # what was due after that step
                        evaluate = self._intervals.evaluates(self._done)
                        metrics = self._finish(self._done, evaluate=evaluate)
        return self._state, metrics

    def compiled_step(self) -> Callable[..., Any]:
        """The train step over the devices of the mesh."""
        experiment = self._experiment
        train_step = make_train_step(
            experiment.method,
            experiment.optimizer,
            experiment.schedule,
            experiment.pipeline.make_batch,
            experiment.step_options,
            extra_metrics=make_trust_ratio_metrics(self._config.optimizer),
        )
        return spmd.data_parallel(
            train_step,
            experiment.mesh,
            self._config.runtime.backend,
            split_constants=experiment.pipeline.split_constants,
            deterministic=self._config.runtime.deterministic,
        )

    def _steps(self, step: Callable[..., Any], constants: Any) -> dict[str, Any]:
        """Trains to the end of the run; returns the metrics of the last evaluation."""
        experiment = self._experiment
        metrics: dict[str, Any] = {}
        host_batches = place_host_batches(
            experiment.pipeline,
            experiment.mesh,
            self._config.runtime.backend,
            self._done,
            experiment.total_steps,
        )
        try:
            for host_batch, wait in self._timed(host_batches):
                self._profile.before(self._done + 1)
                self._state, step_metrics = step(self._state, constants, host_batch)
                self._done += 1
                if self._profile.after(self._done, step_metrics):
                    self._logger.say(f"step {self._done}: traced into {self._run / TRACES}")
                self._logger.record_step(self._done, step_metrics, wait)
                metrics = self._after(self._done)
        finally:
            self._profile.close()
            host_batches.close()
        return metrics

    def _after(self, done: int) -> dict[str, Any]:
        """Does what is due after a step: check replicas, evaluate, save, stop for a signal."""
        every = self._config.train.check_replicas_every
        if self._replicas is not None and done % every == 0:
            self._check_replicas(done)
        request = self._signals.signal_number or 0
        if not request and multihost.is_primary() and self._intervals.overdue():
            request = _SAVE
        agreed = self._stop_vote.poll(done, request)
        stop = agreed > _SAVE and done < self._experiment.total_steps
        if not agreed and not self._intervals.regular(done):
            return {}
        metrics = self._finish(done, evaluate=self._intervals.evaluates(done))
        if stop:
            self._stop(done)
        return metrics

    def _finish(self, done: int, *, evaluate: bool, again: bool = False) -> dict[str, Any]:
        """Evaluates and saves; returns the metrics, empty without an evaluation."""
        self._logger.flush()  # reports a non-finite step before its state is saved
        self._check_replicas(done)
        meta, metrics, scores, found = self._experiment.meta, {}, {}, {}
        evaluator, health = self._evaluation.evaluator, self._evaluation.health
        if evaluate:
            try:
                self._stop_before_evaluating()
                with self._signals.breakable(shared=True):
                    features = evaluator.features(self._state.evaluated(self._experiment.method))
                    metrics = evaluator.evaluate(
                        features, full=done == self._experiment.total_steps
                    )
                    found = health.metrics(features) if health else {}
            except InterruptedRunError:
                if not again:  # else the state is saved already
                    self._checkpoints.save(self._state, {**meta, UNSCORED: True}, {})
                self._stop(done)
            # All processes use the primary process's scores: float noise between hosts could rank
            # checkpoints differently.
            scores = multihost.broadcast_from_primary(lambda: {**evaluator.flat(metrics), **found})
            self._logger.scores(done, scores)
        save = self._checkpoints.replace if again else self._checkpoints.save
        save(self._state, meta, scores)
        self._intervals.saved()
        if self._watch is not None and evaluate and done < self._experiment.total_steps:
            epoch = done // self._experiment.sampler.steps_per_epoch
            if reason := self._watch(epoch, scores):
                self._checkpoints.wait()
                raise StoppedRunError(reason)
        return metrics

    def _stop_before_evaluating(self) -> None:
        """Stops before an evaluation if any process has received a signal.

        An evaluation is a collective: one process cannot leave it alone.

        Raises:
            InterruptedRunError: A process has received a signal.
        """
        if self._stop_vote.poll_now(self._signals.signal_number or 0) > _SAVE:
            raise InterruptedRunError(self._signals.name)

    def _stop(self, done: int) -> None:
        begun = time.monotonic()
        self._checkpoints.wait()
        raise InterruptedRunError(
            f"{self._signals.name or 'a signal to another process'} at step {done} of "
            f"{self._experiment.total_steps}: saved (waited {time.monotonic() - begun:.1f} s for "
            "it); run the same command to resume"
        )

    def _timed(self, host_batches: Generator[Any]) -> Iterator[tuple[Any, float]]:
        """Yields each host batch and the seconds spent waiting for it; a signal ends the wait."""
        while True:
            start = time.perf_counter()
            try:
                ended = self._done >= self._experiment.total_steps
                # A signal that has arrived since the step counts as well; several processes act on
                # it at a step that all have agreed on.
                with nullcontext() if ended else self._signals.breakable(shared=True):
                    host_batch = next(host_batches)
            except StopIteration:
                return
            except InterruptedRunError:
                if self._done > (self._checkpoints.latest or 0):
                    self._finish(self._done, evaluate=False)
                self._stop(self._done)
            yield host_batch, time.perf_counter() - start

    # ------------------------------------------------------------------------------------ recovery

    def _roll_back(self, event: RollbackRequest) -> None:
        """Restores the last regular checkpoint.

        Training continues with the batch after the non-finite one: from the same weights, the same
        batches would fail again. (PaLM, arXiv 2204.02311, sec. 5.1, restarts from a checkpoint
        before a spike and skips the batches around it.)
        """
        target = self._checkpoints.last_regular()
        shapes = jax.eval_shape(lambda: self._state)
        if target is None:
            state = self._first()
        else:
            state = self._checkpoints.restore(shapes, self._experiment.mesh, target)
        lost = event.skipped - int(state.skipped[0])
        self._guard.limit(lost, event.description, f"since step {target or 0}, which was restored")
        self._logger.say(
            f"{event.description}: continuing with the next batch from the weights of step "
            f"{target or 0}"
        )

        def placed(value: Any) -> Any:  # one buffer each: the step donates them
            return spmd.replicate(np.asarray(value, np.int32), self._experiment.mesh)

        self._state = state.replace(
            step=placed(event.step),
            skipped=placed([event.skipped, event.row]),
            opt_state=jax.tree.map(
                lambda node: node._replace(count=placed(event.step)) if is_schedule(node) else node,
                state.opt_state,
                is_leaf=is_schedule,
            ),
        )
        self._done = event.step

    def _check_replicas(self, done: int) -> None:
        if self._replicas is None or self._checked == done:
            return
        if differing := self._replicas(self._state):
            shown = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
            raise RunError(
                f"devices hold different values of {len(differing)} arrays ({shown}) at step "
                f"{done}; they were identical at step {self._checked}, and no checkpoint was saved "
                "since. A device or its memory failed: run the same command to resume, on other "
                "devices if it happens again"
            )
        self._checked = done
