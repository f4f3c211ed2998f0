"""Verdicts: rules that turn the metrics of a run into warnings, one threshold and sentence each.

All functions are pure: they take metrics and return verdicts. The training log prints a verdict at
the first step at which it holds. The report repeats the verdicts that hold at the end of the run.
Metrics have the names of ``metrics.jsonl``. A rule whose metric is missing is skipped, so that it
does not apply to methods without that metric (no softmax, no labels).
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from cssl_jax.evaluate.results import UNTRAINED, Accuracy, Results, Scores
from cssl_jax.methods.registry import method_entry

Metrics = Mapping[str, Any]
Grade = Literal["bad", "warning", "good"]

LINES = 5  # number of newest log lines whose mean is evaluated: one batch is noisy
AT_CHANCE = 0.02  # relative distance from the chance level within which a loss is at chance
TOO_EASY = 0.99  # contrastive accuracy in the first half from which on views are too easy
# Uniformity above which features are one point: a mean squared distance of 0.025 between images.
POINT = -0.05
# Spread of projections below which they are one point: the same mean squared distance.
PROJECTION_POINT = 0.11
# Minimum healthy RankMe: as a fraction of the largest possible rank, and in dimensions.
RANK_FRACTION, MIN_RANK = 0.03, 2.0
DEAD_FRACTION = 0.5  # fraction of dead dimensions above which there is a warning
# Squared distance of two views above which views are too hard, as a fraction of the squared
# distance of different images.
TOO_HARD = 0.97
ERRORS = 3.0  # number of standard errors above chance within which a purity counts as chance
# Trust ratio above which LARS follows weight decay, as a fraction of the one without a gradient.
DECAY_FRACTION = 0.5
LARGEST_STEP = 0.05  # maximum healthy update per step, as a fraction of a tensor's norm
INPUT_WAIT = 0.1  # maximum healthy fraction of the time that steps wait for input
PAST_BEST = 0.01  # maximum healthy drop below the best online score, in fractions of the images


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Result of one rule on the metrics of a run.

    Attributes:
        kind: Identifier of the rule, independent of the numbers. A log prints each kind once.
        grade: "bad" if the run is unusable, "warning" if it deserves attention, else "good".
        title: Summary in a few words.
        detail: Metrics that the verdict rests on, and what to change.
    """

    kind: str
    grade: Grade
    title: str
    detail: str

    def __str__(self) -> str:
        return f"{self.title}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class Facts:
    """Properties of a run that the rules depend on.

    Attributes:
        pairs: Number of positive pairs N per batch, the number of examples per batch.
        chance: Chance level of the loss; None if it has none that training must leave.
        temperature: Temperature of NT-Xent; None for another loss.
        total_steps: Number of optimizer steps of the whole run.
        applies_from: First step to which the rules apply; earlier steps are warm-up.
        trust_coefficient: Coefficient eta of LARS.
        weight_decay: Coefficient lambda of the optimizer's weight decay.
    """

    pairs: int
    chance: float | None
    temperature: float | None
    total_steps: int
    applies_from: int
    trust_coefficient: float = 0.001
    weight_decay: float = 0.0


def facts(config: Any, steps_per_epoch: int) -> Facts:
    """Derives the facts of a run from its config.

    The rules apply from the latest of three steps: the end of the learning rate's warm-up, the end
    of the first epoch, and the smaller of 500 steps and a tenth of the run.

    Args:
        config: Config of the run.
        steps_per_epoch: Number of optimizer steps per epoch.
    """
    entry = method_entry(config.method.name)
    total = config.train.epochs * steps_per_epoch
    warmup = round(config.optimizer.warmup_epochs * steps_per_epoch)
    return Facts(
        pairs=config.train.batch_size,
        chance=entry.chance_level(config) if entry.contrastive else None,
        temperature=entry.temperature(config),
        total_steps=total,
        applies_from=min(max(warmup, steps_per_epoch, min(total // 10, 500)), total),
        trust_coefficient=config.optimizer.trust_coefficient,
        weight_decay=config.optimizer.weight_decay,
    )


def minimum_loss(pairs: int, temperature: float) -> float:
    """Lower bound in nats of the NT-Xent loss of N pairs.

    The bound is reached if positives are identical and the N directions form a simplex. It is
    Jensen's inequality over the 2N - 2 negatives: their similarities average -1 / (N - 1) or more.

    Args:
        pairs: Number of pairs N, at least 2.
        temperature: Temperature of the loss.
    """
    gap = (1.0 + 1.0 / (pairs - 1)) / temperature
    return math.log1p((2 * pairs - 2) * math.exp(-gap))


def check_steps(lines: Iterable[Metrics], known: Facts) -> list[Verdict]:
    """Verdicts on the loss, the contrast and the trust ratios of the newest training steps.

    Args:
        lines: Lines of ``metrics.jsonl`` in the order of steps, each with "step".
        known: Facts of the run. There are no verdicts before the step ``applies_from``.
    """
    lines = [line for line in lines if _is_finite(line.get("loss"))][-LINES:]
    if not lines or lines[-1]["step"] < known.applies_from:
        return []
    step = lines[-1]["step"]
    first_half = 2 * step <= known.total_steps
    verdicts: list[Verdict] = []
    if known.chance is not None:
        verdicts += _check_chance(lines, known.chance, known, first_half)
    accuracy = _mean(lines, "contrastive_accuracy", default=0.0)
    if accuracy >= TOO_EASY and first_half:
        verdicts.append(
            Verdict(
                "too easy",
                "warning",
                "views too easy",
                f"contrastive accuracy {100 * accuracy:.1f} % in the first half of the run leaves "
                "little to learn; strengthen augment.* (smaller crop_area, more jitter and blur) "
                "or enlarge train.batch_size",
            )
        )
    return verdicts + _check_projections(lines) + _check_trust_ratios(lines[-1], known)


def _check_projections(lines: Sequence[Metrics]) -> list[Verdict]:
    """Verdict on the spread of the projections: 0 if they are one point, 1 where healthy."""
    spread = _mean(lines, "projection_std", default=1.0)
    if spread >= PROJECTION_POINT:
        return []
    return [
        Verdict(
            "projections collapsed",
            "bad",
            "projections collapsed to a point",
            f"their standard deviation is {spread:.3f} (0: a point, 1: healthy), so that a low "
            "loss says nothing; lower optimizer.learning_rate, and check the predictor, the "
            "momentum, or the weights of the loss in method.*",
        )
    ]


def _check_chance(
    lines: Sequence[Metrics], chance: float, known: Facts, first_half: bool
) -> list[Verdict]:
    loss = _mean(lines, "loss")
    # A loss that falls through the chance level has a confident softmax. Only a flat softmax, whose
    # entropy is at chance too, has learnt nothing.
    entropy = _mean(lines, "contrastive_entropy", default=chance)
    if abs(chance - loss) < AT_CHANCE * chance and chance - entropy < AT_CHANCE * chance:
        return [_at_chance(loss, chance, known)]
    if loss > (1 + AT_CHANCE) * chance and not first_half:
        return [_worse_than_chance(loss, chance)]
    return []


def _at_chance(loss: float, chance: float, known: Facts) -> Verdict:
    temperature, span = known.temperature, math.inf  # largest possible drop below chance
    if temperature is not None:
        span = chance - minimum_loss(known.pairs, temperature)
    if span < 2 * AT_CHANCE * chance:
        advice = (
            f"at temperature {temperature:g} no loss can fall more than {span:.3f} below it; "
            "lower method.temperature, 0.1 to 0.5 are common"
        )
    else:
        advice = (
            "the encoder does not distinguish the other view of an image from other images; check "
            "the views (cssl-jax views) and the collapse metrics, and change "
            "optimizer.learning_rate"
        )
    detail = f"loss {loss:.3f}, chance level {chance:.3f}: {advice}"
    return Verdict("at chance", "bad", "at chance", detail)


def _worse_than_chance(loss: float, chance: float) -> Verdict:
    return Verdict(
        "worse than chance",
        "bad",
        "worse than chance",
        f"loss {loss:.3f} above chance level {chance:.3f} in the second half of the run: other "
        "images are closer than the other view of an image; train longer, weaken augment.*, or "
        "raise method.temperature",
    )


def _check_trust_ratios(line: Metrics, known: Facts) -> list[Verdict]:
    """Verdicts on the LARS trust ratios eta |w| / |u|, u = gradient + lambda w."""
    if not _is_finite(line.get("trust_ratio_median")):
        return []
    verdicts, median = [], line["trust_ratio_median"]
    if known.weight_decay:
        # Without a gradient u = lambda w, and the ratio is eta / lambda.
        decay_only = known.trust_coefficient / known.weight_decay
        if median > DECAY_FRACTION * decay_only:
            verdicts.append(
                Verdict(
                    "decay alone",
                    "bad",
                    "LARS follows weight decay",
                    f"the median trust ratio {median:.3g} is near {decay_only:.3g}, the ratio of "
                    "weight decay without a gradient; lower optimizer.weight_decay",
                )
            )
    # An update of LARS has the norm learning rate x eta x |w|.
    relative_step = line.get("learning_rate", 0.0) * known.trust_coefficient
    if relative_step > LARGEST_STEP:
        verdicts.append(
            Verdict(
                "large steps",
                "warning",
                "LARS steps are large",
                f"every update moves a tensor by {100 * relative_step:.1f} % of its norm; lower "
                "optimizer.learning_rate or optimizer.trust_coefficient",
            )
        )
    return verdicts


def check_features(scores: Metrics, known: Facts) -> list[Verdict]:
    """Verdicts on collapse, difficulty of the views, and neighbours of held-out features.

    Args:
        scores: "step" and the metrics of ``health.Health``, such as "features.rankme".
        known: Facts of the run. There are no verdicts before the step ``applies_from``.
    """
    if "features.rankme" not in scores or scores["step"] < known.applies_from:
        return []
    value = {name.removeprefix("features."): scores[name] for name in scores}
    verdicts = _check_collapse(value)
    distance = 2 * value["std"] ** 2  # mean squared distance of two random images
    if (
        not verdicts
        and value["alignment"] > TOO_HARD * distance
        and 2 * scores["step"] >= known.total_steps
    ):
        verdicts.append(
            Verdict(
                "too hard",
                "warning",
                "views too hard",
                f"the mean squared distance of two views of an image is {value['alignment']:.3f}, "
                f"that of different images {distance:.3f}: views have too little in common; weaken "
                "augment.* (larger crop_area) or train longer",
            )
        )
    if "neighbour_purity" in value:
        chance, purity = value["purity_chance"], value["neighbour_purity"]
        error = math.sqrt(chance * (1 - chance) / value["rows"])
        if chance < 1 and purity <= chance + ERRORS * error:
            verdicts.append(
                Verdict(
                    "purity",
                    "warning",
                    "neighbours do not share labels",
                    f"{100 * purity:.1f} % of nearest neighbours have the label of their image, "
                    f"{100 * chance:.1f} % by chance: the features do not distinguish the classes "
                    "of the labels",
                )
            )
    return verdicts


def _check_collapse(value: Metrics) -> list[Verdict]:
    """Verdicts on full collapse, dimensional collapse and dead dimensions."""
    if not value["uniformity"] <= POINT:  # "not <=" holds for NaN too
        return [
            Verdict(
                "collapsed",
                "bad",
                "collapsed to a point",
                f"uniformity {value['uniformity']:.4f}, RankMe {value['rankme']:.1f} and a "
                f"standard deviation of {value['std']:.4f} (1 is a whole sphere): all images have "
                "nearly the same features; lower optimizer.learning_rate, check the loss and the "
                "data",
            )
        ]
    verdicts, limit = [], max(MIN_RANK, RANK_FRACTION * value["rank_limit"])
    if value["rankme"] < limit:
        k = max(1, round(value["rankme"]))
        verdicts.append(
            Verdict(
                "collapsed",
                "bad",
                f"collapsed to {k} dimension{'s' if k > 1 else ''}",
                f"RankMe {value['rankme']:.1f} of {value['rank_limit']:.0f}, below {limit:.1f}; "
                "lower optimizer.learning_rate or method.temperature, enlarge train.batch_size",
            )
        )
    if value["dead"] > DEAD_FRACTION:
        verdicts.append(
            Verdict(
                "dead",
                "warning",
                "dead dimensions",
                f"{100 * value['dead']:.0f} % of the features' dimensions hardly vary; lower "
                "optimizer.learning_rate, or use a narrower model.width",
            )
        )
    return verdicts


def check_input(fraction: float, remedy: str = "") -> list[Verdict]:
    """Verdict on the time that steps waited for input.

    Args:
        fraction: Fraction of the time that steps waited for input, in [0, 1].
        remedy: What limits the input and what to change, from ``profile.advice``; "": the command
            that measures it.
    """
    if fraction <= INPUT_WAIT:
        return []
    return [
        Verdict(
            "waiting for input",
            "warning",
            f"waiting for input {100 * fraction:.0f} % of the time",
            remedy or "cssl-jax bench-input RECIPE reports what limits it and what to change",
        )
    ]


def check_timings(lines: Sequence[Metrics]) -> list[Verdict]:
    """Verdict on the time that a whole run waited for input.

    Args:
        lines: Lines of timings with "seconds" and "input_wait", a fraction of them. The first one
            is skipped, since it contains the compilation.
    """
    lines = [line for line in lines if "input_wait" in line][1:]
    seconds = sum(line["seconds"] for line in lines)
    waited = sum(line["input_wait"] * line["seconds"] for line in lines)
    return check_input(waited / seconds) if seconds else []


def check_online(lines: Sequence[Metrics]) -> list[Verdict]:
    """Verdict on whether the last online evaluation is clearly worse than the best one.

    Args:
        lines: Lines of the online evaluations in the order of steps, each with "step".
    """
    for name, title in (("knn.top1", "kNN top-1"), ("view_retrieval", "view retrieval")):
        scores = [(line["step"], line[name]) for line in lines if name in line]
        if len(scores) < 2:
            continue
        step, best = max(scores, key=lambda item: item[1])
        last = scores[-1][1]
        if last < best - PAST_BEST:
            return [
                Verdict(
                    "past its best",
                    "warning",
                    "past its best",
                    f"{title} was {100 * best:.1f} % at step {step} and is {100 * last:.1f} % now; "
                    "load_encoder(run, checkpoint='best') opens the best checkpoint",
                )
            ]
    return []


def check_results(results: Results) -> list[Verdict]:
    """Verdicts on the final metrics, compared with the untrained encoder and raw inputs.

    Args:
        results: Results of ``Evaluator.report``. Of several baselines without an encoder, the first
            one is compared.
    """
    verdicts: list[Verdict] = []
    if UNTRAINED not in results.baselines or not results.raw_baselines:
        return verdicts
    raw_label, raw_scores = next(iter(results.raw_baselines.items()))
    rows: list[Scores] = [results, results.baselines[UNTRAINED], raw_scores]
    scores: dict[str, tuple[str, list[float | None]]] = {
        "linear": ("linear probe top-1", [_top1(row.linear) for row in rows]),
        "knn": ("kNN top-1", [_top1(row.knn) for row in rows]),
        "view_retrieval": ("view retrieval", [row.view_retrieval for row in rows]),
    }
    for name, (label, values) in scores.items():
        known = [100 * value for value in values if value is not None]
        if len(known) < len(rows):
            continue
        trained, untrained, raw = known
        grade: Grade
        if trained <= untrained:
            grade, title = "bad", "no better than untrained"
        elif trained <= raw:
            grade, title = "warning", f"no better than {raw_label}"
        else:
            grade, title = "good", "above both baselines"
        detail = (
            f"{label} {trained:.1f} %; untrained encoder {untrained:.1f} %, {raw_label} {raw:.1f} %"
        )
        verdicts.append(Verdict(f"baselines {name}", grade, title, detail))
    return verdicts


def _top1(accuracy: Accuracy | None) -> float | None:
    return None if accuracy is None else accuracy.top1


def _is_finite(value: Any) -> bool:
    """Whether a metric is a finite number; it is null where the update was skipped."""
    return value is not None and math.isfinite(value)


def _mean(lines: Sequence[Metrics], name: str, default: float = math.nan) -> float:
    values = [line[name] for line in lines if _is_finite(line.get(name))]
    return sum(values) / len(values) if values else default
