"""Adaptation of a run's encoder to an unlabelled domain, compared with bounds and baselines."""

import dataclasses
import pathlib
from collections.abc import Sequence

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.evaluate import leakage
from cssl_jax.evaluate.encoders.encoder_hash import variables_hash
from cssl_jax.evaluate.encoders.load import load_encoder
from cssl_jax.experiment import data_splits
from cssl_jax.files import existing_run, write_json
from cssl_jax.runtime import multihost, process
from cssl_jax.train.pretrain import pretrain
from cssl_jax.transfer.adapt.adabn import reestimated_run
from cssl_jax.transfer.adapt.domain_evaluator import DomainEvaluator, evaluate_baselines
from cssl_jax.transfer.adapt.domains import Domains
from cssl_jax.transfer.adapt.experiments import METHODS, check_batches, training_configs
from cssl_jax.transfer.transfer_report import ADAPTATION
from cssl_jax.transfer.transfer_results import (
    SETTINGS,
    AdaptationResults,
    DomainScores,
    over_seeds,
)


def adapt(
    run: str | pathlib.Path,
    workdir: str | pathlib.Path,
    *,
    methods: Sequence[str] = METHODS,
    seeds: int = 3,
    config: Config,
) -> AdaptationResults:
    """Trains classifiers on source labels with and without adaptation; evaluates both domains.

    All training runs start from the run's encoder, except in the setting "random". Finished
    training runs are reused, and interrupted ones are resumed. Metrics are those of the last epoch,
    without any selection, on the held-out images of each domain. Labels of the target are used for
    evaluation and for training in the setting "target" only.

    Args:
        run: Folder of the pretrained run.
        workdir: Output folder, for one run folder per setting and seed, and adaptation.json.
        methods: Adaptation methods, a selection of ``METHODS``.
        seeds: Number of seeds per setting: ``train.seed`` and the following ones. The held-out
            images are the same for all seeds.
        config: Config of the training runs, from ``finetune.finetune_config``, with
            ``adapt.target``. The batch size is limited to the number of images.

    Returns:
        Content of adaptation.json. "rows" has an entry per feasible setting of
        ``transfer_results.SETTINGS``.

    Raises:
        UserError: The run, the data and the config are incompatible.
    """
    process.join_processes("adapt")
    with multihost.raise_if_peer_lost():
        return _adapt(run, workdir, methods, seeds, config)


def _adapt(
    run: str | pathlib.Path,
    workdir: str | pathlib.Path,
    methods: Sequence[str],
    seeds: int,
    config: Config,
) -> AdaptationResults:
    folder = pathlib.Path(workdir).expanduser().absolute()

    def prepare() -> tuple[pathlib.Path, Config, Domains]:
        _check_arguments(methods, seeds, config)
        domains = Domains(config)
        resolved = domains.resolved(config)
        check_batches(training_configs(resolved, methods, domains))
        return existing_run(run), resolved, domains

    origin, config, domains = multihost.run_on_all(prepare)
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
    modality = data_splits.modality_of(config)
    rows = _evaluate_settings(folder, methods, seeds, config, domains)
    results = AdaptationResults(
        run=origin.name,
        encoder_hash=encoder_hash,
        source=config.data.source,
        target=config.adapt.target,
        images=domains.counts(),
        seeds=seeds,
        epochs=config.train.epochs,
        batch_size=config.train.batch_size,
        baseline_labels={name: baseline.label for name, baseline in modality.baselines.items()},
        rows={row: rows[row] for row in (*SETTINGS, *modality.baselines) if row in rows},
        leakage={
            name: leakage.find_leakage(
                images, domains.target_test, f"{name} training {modality.noun}", modality
            )
            for name, images in (("source", domains.source), ("target", domains.target))
        },
    )
    multihost.run_on_primary(lambda: write_json(folder / ADAPTATION, results.to_json()))
    return results


def _check_arguments(methods: Sequence[str], seeds: int, config: Config) -> None:
    for method in methods:
        if method not in METHODS:
            raise UserError(f"method {method!r} is unknown; use {' or '.join(METHODS)}")
    if seeds < 1:
        raise UserError(f"seeds is {seeds}; give at least 1")
    if not config.adapt.target:
        raise UserError("adapt.target is empty; give the images of the domain to adapt to")


def _evaluate_settings(
    folder: pathlib.Path, methods: Sequence[str], seeds: int, config: Config, domains: Domains
) -> dict[str, DomainScores]:
    """Setting -> top-1 over seeds, per domain; runs missing training runs."""
    accuracies: dict[str, dict[str, list[float]]] = {}
    evaluate = DomainEvaluator(domains)

    def record(row: str, top1: dict[str, float]) -> None:
        for domain, value in top1.items():
            accuracies.setdefault(row, {}).setdefault(domain, []).append(value)

    for seed in range(config.train.seed, config.train.seed + seeds):
        for row, row_config in training_configs(config, methods, domains).items():
            run = folder / f"{row}-seed{seed}"
            train = dataclasses.replace(row_config.train, seed=seed)
            pretrain(dataclasses.replace(row_config, train=train), run)
            encoder = load_encoder(run)
            record(row, evaluate(encoder, encoder.model))
            if row == "source" and "bn" in methods:
                adapted = reestimated_run(encoder, domains.target, folder / f"bn-seed{seed}")
                record("bn", evaluate(encoder, adapted))
    modality = data_splits.modality_of(config)
    for name, baseline in evaluate_baselines(config, domains, modality).items():
        record(name, baseline)
    return {
        row: DomainScores.from_json({name: over_seeds(top1) for name, top1 in by_domain.items()})
        for row, by_domain in accuracies.items()
    }
