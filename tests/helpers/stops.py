"""Hooks that stop, interrupt or change a run after one of its steps was dispatched."""

from cssl_jax.train.hooks import Hook


class CrashError(Exception):
    """Stands for any failure of a process."""


class AfterStep(Hook):
    def __init__(self, step, act):
        self._step, self._act = step, act

    def after_step(self, run, metrics, wait):
        if run.step == self._step:
            self._act(run)


def crash_after(step):
    def crash(run):
        raise CrashError

    return AfterStep(step, crash)
