import pytest

from cssl_jax.errors import UserError
from cssl_jax.recipes import canonical
from cssl_jax.train import intervals
from helpers import tiny


def due(function, total):
    return [step for step in range(1, total + 1) if function(step)]


def make(**train):
    off = {"evaluate_every": 0, "checkpoint_every": 0, "checkpoint_minutes": 0.0}
    return intervals.Intervals(tiny.config(epochs=4, **{**off, **train}).train, steps_per_epoch=5)


def test_the_end_is_evaluated_and_saved_whatever_the_cadence():
    assert due(make().evaluates, 20) == due(make().regular, 20) == [20]


def test_epochs_and_steps_and_evaluations_all_save():
    both = make(evaluate_every=2, checkpoint_every=1, checkpoint_steps=7)
    assert due(both.evaluates, 20) == [10, 20]
    assert due(both.regular, 20) == [5, 7, 10, 14, 15, 20]


def test_minutes_count_from_the_last_save(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(intervals.time, "monotonic", lambda: now[0])
    clock, off = make(checkpoint_minutes=2.0), make()
    now[0] += 119.0
    assert not clock.overdue()
    now[0] += 1.0
    assert clock.overdue()
    assert not off.overdue()
    clock.saved()
    assert not clock.overdue()


@pytest.mark.parametrize("name", ["checkpoint_steps", "checkpoint_minutes", "check_replicas_every"])
def test_negative_intervals_are_refused(name):
    with pytest.raises(UserError, match=rf"train\.{name} is -1.*zero or a positive number"):
        canonical(tiny.config(**{name: -1}))
