"""A sweep's folder: whose it is, and the study that it goes on with."""

import json
import pathlib
import secrets
from typing import Any

from cssl_jax import recipes
from cssl_jax.errors import UserError
from cssl_jax.files import write_json
from cssl_jax.sweeps import results as sweep_results
from cssl_jax.sweeps import study
from cssl_jax.sweeps.space import Space
from cssl_jax.train.run_dir import LOCK, Claim, writable


def claim(place: pathlib.Path) -> Claim:
    """The folder, made where it is missing, for one writer alone.

    Raises:
        UserError: It holds something else, is written by another sweep, or cannot be written.
    """
    if place.exists() and not place.is_dir():
        raise UserError(f"{place} is a file; give --workdir a folder")
    if place.is_dir() and not sweep_results.is_sweep(place):
        known = (LOCK, study.FILE)  # what a kill before the first file of a sweep leaves
        if others := sorted(e.name for e in place.iterdir() if not e.name.startswith(known)):
            raise UserError(f"{place} holds no sweep, but {others[0]}; use another --workdir")
    with writable(place):
        place.mkdir(parents=True, exist_ok=True)
    return Claim(place)


def open_study(
    place: pathlib.Path, space: Space, storage: str, name: str, settings: dict[str, Any]
) -> study.Study:
    """The study, by the mark under which this folder began its trials.

    Raises:
        UserError: The folder holds a sweep of another config or space; see ``study.Study``.
    """
    path = place / sweep_results.SETTINGS
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
