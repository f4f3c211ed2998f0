"""Adaptation of a run's encoder to a domain without labels, beside its bounds and its floors."""

import dataclasses
import pathlib
from collections.abc import Sequence

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.evaluate import leakage
from cssl_jax.evaluate.evaluator import variables_hash
from cssl_jax.evaluate.load import load_encoder
from cssl_jax.files import existing_run, write_json
from cssl_jax.runtime import multihost, process
from cssl_jax.train.pretrain import pretrain
from cssl_jax.transfer.adapt.adabn import reestimated_run
from cssl_jax.transfer.adapt.domains import Domains
from cssl_jax.transfer.adapt.evaluate import DomainEvaluator, pixel_baseline
from cssl_jax.transfer.adapt.experiments import METHODS, ROWS, check_batches, trainings
from cssl_jax.transfer.adapt.table import Figures, spread

RESULTS = "adaptation.json"


def adapt(
    run: str | pathlib.Path,
    workdir: str | pathlib.Path,
    *,
    methods: Sequence[str] = METHODS,
    seeds: int = 3,
    config: Config,
) -> Figures:
    """Trains classifiers on source labels, with and without adaptation, and judges them on both.

    All start from the run's encoder and differ in what the row says; a training that was done or
    broken off is gone on with. Figures are the last epoch's, which nothing chose, on the held-out
    images of either domain. The target's labels report, and train the row "target" alone.

    Args:
        run: Folder of the pretrained run.
        workdir: Folder to write to: a run folder a row and seed, and adaptation.json.
        methods: Of ``METHODS``.
        seeds: Of the trainings: ``train.seed`` and the next ones. The held-out images stay.
        config: Of the trainings, from ``finetune.finetune_config``, with ``adapt.target``. The
            batch is cut to the images that there are.

    Returns:
        The content of adaptation.json: "rows" by ``ROWS``, those that could be made, each with
        "target" (where its held-out images have labels) and "source": {"top1" (a share in [0, 1]
        for each seed), "mean", "std" (None of one seed)}; "images" of each part; "leakage" of the
        target's held-out images.

    Raises:
        UserError: The run, the data or the config do not fit each other.
    """
    process.join("adapt")
    with multihost.watched():
        return _adapt(run, workdir, methods, seeds, config)


def _adapt(
    run: str | pathlib.Path,
    workdir: str | pathlib.Path,
    methods: Sequence[str],
    seeds: int,
    config: Config,
) -> Figures:
    folder = pathlib.Path(workdir).expanduser().absolute()

    def prepared() -> tuple[pathlib.Path, Config, Domains]:
        _check(methods, seeds, config)
        domains = Domains(config)
        resolved = domains.resolved(config)
        check_batches(trainings(resolved, methods, domains))
        return existing_run(run), resolved, domains

    origin, config, domains = multihost.run_on_all(prepared)
    multihost.require_same(
        {
            "run": str(origin),
            "workdir": str(folder),
            "methods": list(methods),
            "seeds": seeds,
            **recipes.facts(config),
            **domains.fingerprints(),
        }
    )
    encoder_hash = variables_hash(load_encoder(origin).model)
    rows = _rows(folder, methods, seeds, config, domains)
    results = {
        "run": origin.name,
        "encoder_hash": encoder_hash,
        "source": config.data.source,
        "target": config.adapt.target,
        "images": domains.counts(),
        "seeds": seeds,
        "epochs": config.train.epochs,
        "batch_size": config.train.batch_size,
        "rows": {row: rows[row] for row in ROWS if row in rows},
        "leakage": {
            name: leakage.find_leakage(
                part, domains.target_test, f"{name} images that are trained on"
            )
            for name, part in (("source", domains.source), ("target", domains.target))
        },
    }
    multihost.run_on_primary(lambda: write_json(folder / RESULTS, results))
    return results


def _check(methods: Sequence[str], seeds: int, config: Config) -> None:
    for method in methods:
        if method not in METHODS:
            raise UserError(f"method {method!r} is unknown; use {' or '.join(METHODS)}")
    if seeds < 1:
        raise UserError(f"seeds is {seeds}; give at least 1")
    if not config.adapt.target:
        raise UserError("adapt.target is empty; give the images of the domain to adapt to")


def _rows(
    folder: pathlib.Path, methods: Sequence[str], seeds: int, config: Config, domains: Domains
) -> dict[str, Figures]:
    """Row -> domain -> ``spread`` of its top-1; trains what is not trained yet."""
    tops: dict[str, dict[str, list[float]]] = {}
    judge = DomainEvaluator(domains)

    def note(row: str, top1: dict[str, float]) -> None:
        for domain, value in top1.items():
            tops.setdefault(row, {}).setdefault(domain, []).append(value)

    for seed in range(config.train.seed, config.train.seed + seeds):
        for row, chosen in trainings(config, methods, domains).items():
            place = folder / f"{row}-seed{seed}"
            train = dataclasses.replace(chosen.train, seed=seed)
            pretrain(dataclasses.replace(chosen, train=train), place)
            encoder = load_encoder(place)
            note(row, judge(encoder, encoder.model))
            if row == "source" and "bn" in methods:
                adapted = reestimated_run(encoder, domains.target, folder / f"bn-seed{seed}")
                note("bn", judge(encoder, adapted))
    if baseline := pixel_baseline(config, domains):
        note("pixels", baseline)
    return {
        row: {domain: spread(values) for domain, values in of.items()} for row, of in tops.items()
    }
