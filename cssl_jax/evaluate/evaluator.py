"""Judges an encoder during a run and after it, by labels where there are some."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.data.sources.base import Source, seeded_subset
from cssl_jax.errors import RunError, UserError
from cssl_jax.evaluate import leakage
from cssl_jax.evaluate.features import Model, encoder_variables, make_embed, pixels
from cssl_jax.evaluate.protocols import linear
from cssl_jax.evaluate.protocols import run as protocols
from cssl_jax.evaluate.untrained import describe


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model and the step it was saved at."""

    step: int
    model: Model


class Evaluator:
    """The evaluation that a config asks for, on its data; compiled once.

    A keyed half of the validation part ranks checkpoints during the run; the other half reports on
    the one that came out best. The last checkpoint, which nothing chose, is reported on all of it.
    """

    def __init__(
        self,
        config: Config,
        encoder: nn.Module,
        spec: InputSpec,
        train: Source,
        validation: Source,
        mesh: Mesh,
    ) -> None:
        self._config = config
        self._spec = spec
        self._all_train, self._all_validation = train, validation
        train = labelled_part(train)
        limit = config.evaluate.train_limit
        if limit == 1:
            raise UserError("evaluate.train_limit is 1; a probe needs 2 images or more, 0 is all")
        self._train = seeded_subset(train, limit or len(train), seed=config.train.seed)
        self._validation = labelled_part(validation)
        self._selection, self._reporting = halves(validation, config.train.seed)
        self._embed = make_embed(
            encoder,
            mesh,
            size=spec.size,
            mean=spec.mean,
            std=spec.std,
            batch_size=config.evaluate.batch_size,
        )

    @property
    def labelled(self) -> bool:
        """Whether both parts have labels."""
        return all(
            part.labels is not None and part.labels.min() >= 0
            for part in (self._train, self._validation)
        )

    def judge(
        self,
        features: protocols.Features,
        names: tuple[str, ...] = protocols.ONLINE,
        *,
        full: bool = False,
        rows: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Figures of one way to make features.

        Args:
            features: Source of N images -> float32 [N, D].
            names: Of protocols.
            full: As after a run; else with the few penalties and the one k of an evaluation during
                it, and the figure that ranks checkpoints.
            rows: int [r], of the validation part to report on; None is all.
        """
        options = self._config.evaluate
        validation = self._validation if rows is None else self._validation.take(rows)
        selection = self._selection if rows is None and len(self._selection) else None
        if not self.labelled:
            return dict(
                protocols.unlabelled(
                    features,
                    validation,
                    self._config.augment,
                    size=self._spec.size,
                    seed=self._config.train.seed,
                    selection=selection,
                )
            )
        settings: dict[str, Any] = {"l2_values": options.online_l2_values}
        if full:
            settings = {
                "l2_values": options.l2_values or linear.L2_VALUES,
                "knn_ks": options.knn_ks,
                "probe_seeds": options.probe_seeds,
            }

        def of_rows(source: Source) -> np.ndarray:  # those of all rows may be known
            part = source is validation and rows is not None
            return features(self._validation)[rows] if part else features(source)

        return protocols.labelled(
            of_rows,
            self._train,
            validation,
            protocols=names,
            knn_k=options.knn_k,
            knn_temperature=options.knn_temperature,
            seed=self._config.train.seed,
            shots=options.shots,
            draws=options.draws,
            recall_at=options.recall_at,
            selection=selection,
            **settings,
        )

    @staticmethod
    def flat(figures: dict[str, Any]) -> dict[str, float]:
        """Figures of ``judge`` by dotted names: {"knn.top1": ..., ...}."""
        flat: dict[str, float] = {}
        for name, value in figures.items():
            if not isinstance(value, dict):
                flat[name] = value
                continue
            for figure in ("top1", "top5", "selection_top1"):  # its settings are no figures
                if figure in value:
                    flat[f"{name}.{figure}"] = value[figure]
        return flat

    def report(
        self,
        last: Checkpoint,
        best: Checkpoint | None,
        untrained: Callable[[Source], Model],
        names: tuple[str, ...] = protocols.ONLINE,
        *,
        figures: dict[str, Any] | None = None,
        chose_best: bool = True,
        ranked: Source | None = None,
    ) -> dict[str, Any]:
        """The last and the best checkpoint beside the untrained encoder and raw pixels.

        Args:
            last: Of the run; reported on the whole validation part.
            best: Reported on the images that did not rank checkpoints; None leaves it out.
            untrained: Training images -> the untrained model, see ``untrained.untrained_model``.
            names: Of protocols.
            figures: Of ``last``, ``judge(..., full=True)``, where they are known.
            chose_best: Whether it was this validation part that ranked the run's checkpoints.
            ranked: Images that did, where it was not; those that are in this part as well do not
                report on ``best``. None where they are not known.

        Returns:
            ``judge``'s figures of ``last``, with "step", "num_classes", "random_init" (the
            untrained encoder, with its "description"), "pixels",
            "best" (figures, "step", "images"; of another step than the last, the last one's on the
            same images as "last"), "selection" (who chose and who reports), "encoder_hash" (the
            variables' SHA-256, the same after as before) and "leakage".

        Raises:
            RunError: A protocol changed an encoder's variables.
        """
        hashes = {"last": variables_hash(last.model)}
        of_last = self._cached(last.model)
        if figures is None:
            figures = self.judge(of_last, names, full=True)
        results: dict[str, Any] = {
            "step": last.step,
            "num_classes": self._train.num_classes if self.labelled else 0,
            **figures,
        }
        rows = self._reporting if chose_best else self._unranked(ranked)
        if best is not None and len(rows):
            hashes["best"] = variables_hash(best.model)
            same = best.step == last.step
            of_best = of_last if same else self._cached(best.model)
            results["best"] = {
                "step": best.step,
                "images": len(rows),
                **_as_baseline(self.judge(of_best, names, full=True, rows=rows)),
            }
            if not same:
                on_same = self.judge(of_last, names, full=True, rows=rows)
                results["best"]["last"] = _as_baseline(on_same)
        results["selection"] = self._who_chose(last, best, chose_best, len(rows))
        baselines = {"random_init": self.features(untrained(self._train)), "pixels": pixels}
        for name, features in baselines.items():
            results[name] = _as_baseline(self.judge(features, names, full=True))
        results["random_init"]["description"] = describe(len(self._train))
        models = {"last": last, "best": best}
        for name, before in hashes.items():
            checkpoint = models[name]
            if checkpoint is None or variables_hash(checkpoint.model) != before:
                raise RunError(
                    f"the encoder of the {name} checkpoint is not what it was before it was "
                    f"evaluated (SHA-256 {before[:12]}): a protocol changed it, so that no figure "
                    "of it is one of a frozen encoder"
                )
        results["encoder_hash"] = {**hashes, "unchanged": True}
        results["leakage"] = {
            "train": leakage.find_leakage(self._all_train, self._all_validation, "training images")
        }
        return results

    def _unranked(self, ranked: Source | None) -> np.ndarray:
        """Rows of the validation part that are not among the images that ranked checkpoints."""
        if ranked is None or ranked.channels != self._validation.channels:
            return np.arange(len(self._validation))
        return np.flatnonzero(~leakage.is_among(self._validation, ranked))

    def _who_chose(
        self, last: Checkpoint, best: Checkpoint | None, chose_best: bool, report: int
    ) -> dict[str, Any]:
        """Which images ranked checkpoints, which report; in figures and in words."""
        total, by = len(self._validation), "kNN top-1" if self.labelled else "view retrieval"
        chose = len(self._selection) if chose_best else total - report
        if chose_best:
            where = (
                f"on {chose:,} of the {total:,} validation images; it is reported on the other "
                f"{report:,}"
            )
        else:
            those = f"all {report:,} here"
            if report < total:
                those = f"the {report:,} of {total:,} here that are not among them"
            where = f"on the run's own validation images; it is reported on {those}"
        words = (
            f"last checkpoint: step {last.step}, chosen by nothing, reported on all {total:,} "
            "validation images\n"
        )
        if best is None:
            words += "best checkpoint: not evaluated"
        elif not report:
            words += "best checkpoint: not reported, no validation image is left that did not rank"
        else:
            also = ", the last one" if best.step == last.step else ""
            words += f"best checkpoint: step {best.step}{also}, chosen by online {by} {where}"
        return {"by": by, "images": chose, "reporting_images": report, "words": words}

    def features(self, model: Model) -> protocols.Features:
        """The encoder of a model as a function from a source to features."""
        variables = encoder_variables(model)
        return lambda source: self._embed(variables, source)

    def _cached(self, model: Model) -> Callable[[Source], np.ndarray]:
        """``features`` that embed the two parts once."""
        compute, known = self.features(model), dict[int, np.ndarray]()

        def features(source: Source) -> np.ndarray:
            if source is not self._train and source is not self._validation:
                return compute(source)
            if id(source) not in known:
                known[id(source)] = compute(source)
            return known[id(source)]

        return features


def variables_hash(model: Model) -> str:
    """SHA-256 of an encoder's variables: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    leaves, _ = jax.tree_util.tree_flatten_with_path(encoder_variables(model))
    for path, leaf in leaves:
        values = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def halves(validation: Source, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A keyed half of the images, and the rest: rows of ``labelled_part``, each sorted."""
    size = len(validation)
    # Of another epoch than the split of data, whose order must not decide again.
    order = permute(np.arange(size), epoch_key(seed, 1), size)
    chooses = np.zeros(size, bool)
    chooses[order[: (size + 1) // 2]] = True
    labels = validation.labels
    if labels is not None and labels.max() >= 0:  # the same half with labels and without
        chooses = chooses[labels >= 0]
    return np.flatnonzero(chooses), np.flatnonzero(~chooses)


def _as_baseline(figures: dict[str, Any]) -> dict[str, Any]:
    """Without the details that nobody compares."""
    details = ("confusion", "per_class", "selection_top1")
    return {
        name: {key: figure for key, figure in value.items() if key not in details}
        if isinstance(value, dict)
        else value
        for name, value in figures.items()
        if name != "selection_view_retrieval"
    }


def labelled_part(source: Source) -> Source:
    """The examples that have a label, where some have and some have not."""
    if source.labels is None or source.labels.min() >= 0 or source.labels.max() < 0:
        return source
    return source.take(np.flatnonzero(source.labels >= 0))
