"""The folder of a sweep: exclusive access to it, and the Optuna study that it belongs to."""

import json
import pathlib
import secrets
from typing import Any

from cssl_jax import recipes
from cssl_jax.errors import UserError
from cssl_jax.files import write_json
from cssl_jax.sweeps import study, sweep_results
from cssl_jax.sweeps.space import Space
from cssl_jax.train.run_dir import LOCK, Claim, writable


def claim(folder: pathlib.Path) -> Claim:
    """Creates the folder where it is missing, and locks it for a single writer.

    Raises:
        UserError: The folder holds something else, is locked by another sweep, or is not writable.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give --workdir a folder")
    if folder.is_dir() and not sweep_results.is_sweep(folder):
        # A sweep that was killed before it wrote its first table leaves only these files.
        own_files = (LOCK, study.FILE)
        foreign = sorted(e.name for e in folder.iterdir() if not e.name.startswith(own_files))
        if foreign:
            raise UserError(f"{folder} holds no sweep, but {foreign[0]}; use another --workdir")
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return Claim(folder)


def open_study(
    folder: pathlib.Path, space: Space, storage: str, name: str, settings: dict[str, Any]
) -> study.Study:
    """Opens the study of a sweep's folder, with the worker id that marks the folder's trials.

    Args:
        folder: Folder of the sweep.
        space: Search space; its text and base config are compared with those of the folder.
        storage: Address of an Optuna storage; "" is a SQLite file in the folder.
        name: Study name; "" is the folder's name in a storage, and "sweep" in the SQLite file.
        settings: Seed, sampler, pruner and hashes, which the study has to agree with.

    Raises:
        UserError: The folder holds a sweep of another config or space; see also ``study.Study``.
    """
    path = folder / sweep_results.SETTINGS
    stored: dict[str, Any] = {"worker": secrets.token_hex(6)}
    if path.is_file():
        stored = json.loads(path.read_text())
    if "config" in stored:
        changed = recipes.differences(recipes.from_dict(stored["config"]), space.base)
        if stored["space"] != space.text:
            changed.append(f"{space.path}: its previous text is in {path}")
        if changed:
            raise UserError(
                f"{folder} holds a sweep with another config or space; use another --workdir, or "
                "undo:\n  " + "\n  ".join(changed)
            )
    else:
        # The worker id goes to disk before the first trial, so that a killed sweep finds its own.
        write_json(path, stored)
    return study.Study(
        folder, storage, name or (folder.name if storage else "sweep"), stored["worker"], settings
    )
