"""A sweep: one run after another, each judged by the images that select, to be gone on with."""

import hashlib
import json
import math
import pathlib
import secrets
from collections.abc import Callable
from typing import Any

import jax

from cssl_jax import processes, recipes, runtime
from cssl_jax.config import Config
from cssl_jax.errors import InterruptedRunError, RunError, StoppedRunError, UserError
from cssl_jax.evaluate.run_folder import open_run
from cssl_jax.files import write_json
from cssl_jax.sweeps import record, study
from cssl_jax.sweeps.record import Sweep
from cssl_jax.sweeps.space import Space
from cssl_jax.train import folder as folders
from cssl_jax.train import setup
from cssl_jax.train.loop import pretrain

RUNS = "trials"
# Figure of an online evaluation -> in words: those by which ``checkpoints.BEST`` ranks, so that a
# trial's score is that of its best checkpoint.
METRICS = {
    "knn.selection_top1": "kNN top-1",
    "selection_view_retrieval": "view retrieval",
    "classifier.selection_top1": "classifier top-1",
}
Say = Callable[[str], None]


def sweep(
    config: Config,
    workdir: str | pathlib.Path,
    space: str | pathlib.Path,
    *,
    trials: int = 20,
    seed: int = 0,
    sampler: str = "tpe",
    pruner: str = "median",
    prune_after: int = 0,
    storage: str = "",
    study_name: str = "",
    recipe: str = "",
    say: Say = lambda text: None,
) -> Sweep:
    """Runs trials until there are so many; on a folder with a sweep in it, goes on with that.

    Each trial is a run folder, WORKDIR/trials/0000 and so on. A trial that was broken off, by a
    signal or a kill, is gone on with from its checkpoint, under the same number and with the same
    parameters. A trial is ranked by its best checkpoint on the keyed half of the validation images
    that ranks checkpoints in any run, and reports on the other half.

    Args:
        config: What all trials have in common.
        workdir: Folder of the sweep.
        space: Python file with ``space(trial) -> {"section.field": value}``; see docs/sweeps.md.
        trials: In all, those that failed included.
        seed: Of what is drawn; each trial's own depends on it and on the trial's number.
        sampler: Of ``study.SAMPLERS``.
        pruner: Of ``study.PRUNERS``: whether a trial ends once it is worse than the median of the
            earlier ones at the same epoch.
        prune_after: Epochs before which none is pruned.
        storage: Of Optuna, such as mysql://...; "" is a SQLite file in the folder.
        study_name: In a storage that is shared; "" is the folder's name.
        recipe: What to call the config.
        say: Is told of every trial.

    Raises:
        UserError: The space, the config, the data or the folder do not fit each other.
        InterruptedRunError: A signal came; what was done is saved.
        RunError: No trial was completed, or something could not be written.
    """
    study.require()
    if not processes.alone():
        raise UserError(
            f"a sweep runs in one process, not in {jax.process_count()}; start several, each with "
            "its own --workdir and a --storage that they share"
        )
    if trials < 1:
        raise UserError(f"--trials is {trials}; give 1 or more")
    for name, value, known in (
        ("sampler", sampler, study.SAMPLERS),
        ("pruner", pruner, study.PRUNERS),
    ):
        if value not in known:
            raise UserError(f"--{name} is {value!r}; give one of {', '.join(known)}")
    place = pathlib.Path(workdir).expanduser().absolute()
    tried = Space(space, recipes.canonical(config))
    tried.check(seed)
    settings = {
        "config": recipes.config_hash(config),
        "space": hashlib.sha256(tried.text.encode()).hexdigest()[:12],
        "seed": seed,
        "sampler": sampler,
        "pruner": pruner,
        "prune_after": prune_after,
    }
    with runtime.catch_signals() as interruption:
        try:
            with interruption.breakable():
                metric = _metric(config, tried)
        except InterruptedRunError as stopped:
            raise InterruptedRunError(f"{stopped} before the first trial") from stopped
        with folders.while_running(place), _claim(place):
            opened = _open(place, tried, storage, study_name, settings)
            about = {
                "recipe": recipe,
                "config": recipes.to_dict(tried.base),
                "space": tried.text,
                "settings": settings,
            }
            running = _Sweep(place, tried, opened, interruption, metric, trials, about, say)
            running.write()
            return running.run()


class _Sweep:
    def __init__(
        self,
        place: pathlib.Path,
        space: Space,
        opened: study.Study,
        interruption: runtime.Interruption,
        metric: str,
        most: int,
        about: dict[str, Any],
        say: Say,
    ) -> None:
        self._place, self._space, self._study = place, space, opened
        self._interruption, self._metric = interruption, metric
        self._most, self._about, self._say = most, about, say

    def run(self) -> Sweep:
        """All trials that are left.

        Raises:
            InterruptedRunError, RunError: See ``sweep``.
        """
        while trial := self._study.next(self._most):
            self._say(f"trial {trial.number} of {self._most}")
            try:
                state, message = self._try(trial)
            except InterruptedRunError as stopped:
                raise InterruptedRunError(f"trial {trial.number}: {stopped}") from stopped
            finally:
                self.write()
            self._say(f"trial {trial.number} {state}{message and ': ' + message}")
        found = self.write()
        if not found.count("complete"):
            failed = [trial for trial in found.trials if trial.message]
            reason = f"; {failed[-1].message}" if failed else ""
            raise RunError(f"none of {len(found.trials)} trials was completed{reason}")
        return found

    def _try(self, trial: Any) -> tuple[str, str]:
        """Runs a trial to its end and counts it: (state, words)."""
        place = self._place / RUNS / f"{trial.number:04}"
        attributes: dict[str, Any] = {
            "run": f"{RUNS}/{place.name}",
            "folder": str(self._place),
        }
        try:
            config = self._space.config(trial)
            watch = _Watch(trial, self._metric, config.train.epochs)
            reason = watch.replay(place)
            if not reason:
                self._stop_if_asked()
                results = pretrain(config, place, watch=watch)
                watch.replay(place)
        except StoppedRunError as stopped:
            reason = str(stopped)
        except InterruptedRunError:
            raise
        except (UserError, RunError, jax.errors.JaxRuntimeError, MemoryError) as error:
            if isinstance(error.__cause__, OSError):  # a full disk is no trial's fault
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            attributes = attributes if place.is_dir() else {}
            self._study.end(trial, "failed", message=message, **attributes)
            return "failed", message
        if reason:
            self._study.end(trial, "pruned", message=reason, **attributes)
            return "pruned", reason
        if not watch.scores:
            message = f"no evaluation has a {METRICS[self._metric]} on images that select"
            self._study.end(trial, "failed", message=message, **attributes)
            return "failed", message
        score, best = max(watch.scores.values()), results.get("best", {})
        reported = _reported(best)
        images = [results["selection"]["images"], best.get("images", 0)]
        self._study.end(trial, "complete", score, reported=reported, images=images, **attributes)
        return "complete", f"{METRICS[self._metric]} {100 * score:.1f} %"

    def _stop_if_asked(self) -> None:
        if name := self._interruption.name:
            raise InterruptedRunError(f"{name} before its steps; run the same command to go on")

    def write(self) -> Sweep:
        """Brings the folder's tables up to date."""
        found = Sweep(
            path=self._place,
            most=self._most,
            metric=METRICS[self._metric],
            images=self._study.images(),
            axes=self._study.axes(),
            trials=record.ranked(self._study.trials()),
            importance=self._study.importance(),
            **self._about,
        )
        known = json.loads((self._place / record.SETTINGS).read_text())
        about = {**known, **self._about, "most": self._most, "metric": found.metric}
        write_json(self._place / record.SETTINGS, about)
        record.write(found)
        return found


class _Watch:
    """Reports a run's evaluations to Optuna, and asks it whether to go on.

    Attributes:
        scores: Epoch to share in [0, 1], of all that were reported.
    """

    def __init__(self, trial: Any, metric: str, epochs: int) -> None:
        self._trial, self._metric, self._epochs = trial, metric, epochs
        frozen = trial.storage.get_trial(trial._trial_id)
        self.scores: dict[int, float] = dict(frozen.intermediate_values)

    def __call__(self, epoch: int, figures: dict[str, float]) -> str:
        self._report(epoch, figures)
        if epoch >= self._epochs or epoch not in self.scores or not self._trial.should_prune():
            return ""
        best = max(self.scores.values())
        return (
            f"at epoch {epoch}, {100 * best:.1f} % at best: below the median of earlier trials "
            "there"
        )

    def replay(self, place: pathlib.Path) -> str:
        """Reports what is written down; the verdict on the last of it, "" before any."""
        if not (place / "config.json").is_file():
            return ""
        lines = open_run(place).online
        reason = ""
        for line in lines:
            reason = self(round(line["epoch"]), line) if line is lines[-1] else ""
            self._report(round(line["epoch"]), line)
        return reason

    def _report(self, epoch: int, figures: dict[str, float]) -> None:
        score = figures.get(self._metric)
        if score is not None and math.isfinite(score) and epoch not in self.scores:
            self._trial.report(score, epoch)
            self.scores[epoch] = score


def _metric(config: Config, space: Space) -> str:
    """Which figure selects, once the data are known to be there."""
    parts = setup.load_data(config)
    if config.method.name == "classifier":
        return "classifier.selection_top1"
    if all(part.labels is not None and part.labels.max() >= 0 for part in parts):
        return "knn.selection_top1"
    if changed := [name for name in space.fields if name.startswith(("augment.", "data.size"))]:
        raise UserError(
            f"space {space.path} sets {', '.join(changed)}, but the images have no labels: trials "
            "are then ranked by how well two views find each other, which easier views do "
            "better; leave it out of the space, or give labels (data.labels)"
        )
    return "selection_view_retrieval"


def _reported(best: dict[str, Any]) -> dict[str, float]:
    """Figures of a best checkpoint on the images that chose nothing."""
    found = {
        f"{title} top-1": best[name]["top1"]
        for name, title in (("knn", "kNN"), ("linear", "linear"), ("classifier", "classifier"))
        if name in best
    }
    return found or ({"view retrieval": best["view_retrieval"]} if "view_retrieval" in best else {})


def _claim(place: pathlib.Path) -> folders.Claim:
    """The folder, made where it is missing, for one writer alone."""
    if place.exists() and not place.is_dir():
        raise UserError(f"{place} is a file; give --workdir a folder")
    if place.is_dir() and not record.is_sweep(place):
        known = (folders.LOCK, study.FILE)  # what a kill before the first file of a sweep leaves
        if others := sorted(e.name for e in place.iterdir() if not e.name.startswith(known)):
            raise UserError(f"{place} holds no sweep, but {others[0]}; use another --workdir")
    with folders.writable(place):
        place.mkdir(parents=True, exist_ok=True)
    return folders.Claim(place)


def _open(
    place: pathlib.Path, space: Space, storage: str, name: str, settings: dict[str, Any]
) -> study.Study:
    """The study, by the mark under which this folder began its trials."""
    path = place / record.SETTINGS
    known: dict[str, Any] = {"worker": secrets.token_hex(6)}
    if path.is_file():
        known = json.loads(path.read_text())
    if "config" in known:
        changed = recipes.differences(recipes.from_dict(known["config"]), space.base)
        if known["space"] != space.text:
            changed.append(f"{space.path}: its text as it was is in {path}")
        if changed:
            raise UserError(
                f"{place} holds a sweep of something else; use another --workdir, or undo:\n  "
                + "\n  ".join(changed)
            )
    else:
        write_json(path, known)
    return study.Study(
        place, storage, name or (place.name if storage else "sweep"), known["worker"], settings
    )
