"""What figures mean, in words: a threshold and a sentence each. Pure: figures in, verdicts out.

The training log says a verdict the moment it holds, the report repeats what holds at its end.
Figures are those of ``metrics.jsonl`` by their names there; one that is missing is not judged, so
that methods without it (no softmax, no labels) pass.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from cssl_jax.losses.ntxent import chance_level

Figures = Mapping[str, Any]
Grade = Literal["bad", "warning", "good"]

LINES = 5  # of the log, whose mean is judged: one batch is noisy
AT_CHANCE = 0.02  # of the chance level
TOO_EASY = 0.99  # contrastive accuracy in the first half
POINT = -0.05  # uniformity, i.e. a mean squared distance of 0.025 between pictures
RANK_SHARE, RANK_LEAST = 0.03, 2.0  # of the largest rank there can be; dimensions
DEAD_SHARE = 0.5  # of the dimensions
TOO_HARD = 0.97  # of the squared distance of different pictures
ERRORS = 3.0  # standard errors above chance that are chance
DECAY_SHARE = 0.5  # of the trust ratio that weight decay alone would give
LARGEST_STEP = 0.05  # of a tensor's length an update
INPUT_WAIT = 0.1  # share of the time
PAST_BEST = 0.01  # share of the pictures


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One sentence on a run.

    Attributes:
        kind: What it is about, the same however large; a log says each kind once.
        grade: "bad" spoils the run, "warning" is worth a look, "good" is neither.
        title: The verdict in few words.
        detail: The figures that it rests on, and what to do.
    """

    kind: str
    grade: Grade
    title: str
    detail: str

    def __str__(self) -> str:
        return f"{self.title}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the verdicts must know of a run.

    Attributes:
        pairs: N, examples a batch.
        temperature: Of the loss.
        total_steps: Of the run.
        judged_from: First step that is judged: earlier losses are a beginning's.
        trust_coefficient: Eta of LARS.
        weight_decay: Lambda of the optimizer.
    """

    pairs: int
    temperature: float
    total_steps: int
    judged_from: int
    trust_coefficient: float = 0.001
    weight_decay: float = 0.0


def facts(config: Any, steps_per_epoch: int) -> Facts:
    """The facts of a run's config; judged after the warm-up, an epoch, and a tenth or 500 steps."""
    total = config.train.epochs * steps_per_epoch
    warmup = round(config.optimizer.warmup_epochs * steps_per_epoch)
    return Facts(
        pairs=config.train.batch_size,
        temperature=config.method.temperature,
        total_steps=total,
        judged_from=min(max(warmup, steps_per_epoch, min(total // 10, 500)), total),
        trust_coefficient=config.optimizer.trust_coefficient,
        weight_decay=config.optimizer.weight_decay,
    )


def least_loss(pairs: int, temperature: float) -> float:
    """A lower bound of NT-Xent of N pairs: positives agree, the N directions form a simplex.

    Jensen's inequality over the 2N - 2 negatives, whose similarities average -1 / (N - 1) at least.
    """
    gap = (1.0 + 1.0 / (pairs - 1)) / temperature
    return math.log1p((2 * pairs - 2) * math.exp(-gap))


def of_steps(lines: Iterable[Figures], known: Facts) -> list[Verdict]:
    """Judges the newest lines of training, each with "step"; nothing before ``judged_from``."""
    lines = [line for line in lines if _is_finite(line.get("loss"))][-LINES:]
    if not lines or lines[-1]["step"] < known.judged_from:
        return []
    step = lines[-1]["step"]
    first_half = 2 * step <= known.total_steps
    found: list[Verdict] = []
    loss, chance = _mean(lines, "loss"), chance_level(known.pairs)
    entropy = _mean(lines, "contrastive_entropy", default=chance)
    if abs(chance - loss) < AT_CHANCE * chance and chance - entropy < AT_CHANCE * chance:
        found.append(_at_chance(loss, chance, known))
    elif loss > (1 + AT_CHANCE) * chance and not first_half:
        found.append(_worse_than_chance(loss, chance))
    accuracy = _mean(lines, "contrastive_accuracy", default=0.0)
    if accuracy >= TOO_EASY and first_half:
        found.append(
            Verdict(
                "too easy",
                "warning",
                "views too easy",
                f"contrastive accuracy {100 * accuracy:.1f} % in the first half of the run leaves "
                "little to learn; strengthen augment.* (smaller crop_area, more jitter and blur) "
                "or enlarge train.batch_size",
            )
        )
    return found + _of_trust(lines[-1], known)


def _at_chance(loss: float, chance: float, known: Facts) -> Verdict:
    figures = f"loss {loss:.3f} beside chance level {chance:.3f}"
    span = chance - least_loss(known.pairs, known.temperature)
    if span < 2 * AT_CHANCE * chance:
        cure = (
            f"at temperature {known.temperature:g} no loss can fall {span:.3f} below it; lower "
            "method.temperature, 0.1 to 0.5 are common"
        )
    else:
        cure = (
            "the encoder does not tell a picture's other view from other pictures; look at the "
            "views (cssl-jax views), at the collapse figures, and change optimizer.learning_rate"
        )
    return Verdict("at chance", "bad", "at chance", f"{figures}: {cure}")


def _worse_than_chance(loss: float, chance: float) -> Verdict:
    return Verdict(
        "worse than chance",
        "bad",
        "worse than chance",
        f"loss {loss:.3f} above chance level {chance:.3f} past half of the run: other pictures "
        "look nearer than a picture's other view; train longer, soften augment.*, or raise "
        "method.temperature",
    )


def _of_trust(line: Figures, known: Facts) -> list[Verdict]:
    """Of the LARS trust ratios eta |w| / |u|, u = gradient + lambda w."""
    if not _is_finite(line.get("trust_ratio_median")):
        return []
    found, median = [], line["trust_ratio_median"]
    if known.weight_decay:
        alone = known.trust_coefficient / known.weight_decay  # where there is no gradient
        if median > DECAY_SHARE * alone:
            found.append(
                Verdict(
                    "decay alone",
                    "bad",
                    "LARS follows weight decay",
                    f"the median trust ratio {median:.3g} is near {alone:.3g}, that of weight "
                    "decay without a gradient; lower optimizer.weight_decay",
                )
            )
    moved = line.get("learning_rate", 0.0) * known.trust_coefficient
    if moved > LARGEST_STEP:
        found.append(
            Verdict(
                "large steps",
                "warning",
                "LARS steps are large",
                f"every update moves a tensor by {100 * moved:.1f} % of its length; lower "
                "optimizer.learning_rate or optimizer.trust_coefficient",
            )
        )
    return found


def of_features(scores: Figures, known: Facts) -> list[Verdict]:
    """Judges figures of ``health.Health``, {"step", "features.rankme", ...}."""
    if "features.rankme" not in scores or scores["step"] < known.judged_from:
        return []
    value = {name.removeprefix("features."): scores[name] for name in scores}
    found = _of_collapse(value)
    apart = 2 * value["std"] ** 2  # mean squared distance of any two pictures
    if (
        not found
        and value["alignment"] > TOO_HARD * apart
        and 2 * scores["step"] >= known.total_steps
    ):
        found.append(
            Verdict(
                "too hard",
                "warning",
                "views too hard",
                f"two views of a picture lie {value['alignment']:.3f} apart, different pictures "
                f"{apart:.3f} (mean squared distance): they share too little; soften augment.* "
                "(larger crop_area) or train longer",
            )
        )
    if "neighbour_purity" in value:
        chance, purity = value["purity_chance"], value["neighbour_purity"]
        error = math.sqrt(chance * (1 - chance) / value["rows"])
        if chance < 1 and purity <= chance + ERRORS * error:
            found.append(
                Verdict(
                    "purity",
                    "warning",
                    "neighbours do not share labels",
                    f"{100 * purity:.1f} % of nearest neighbours do, {100 * chance:.1f} % would by "
                    "chance: what the encoder keeps is not what the labels tell apart",
                )
            )
    return found


def _of_collapse(value: Figures) -> list[Verdict]:
    if not value["uniformity"] <= POINT:  # NaN too
        return [
            Verdict(
                "collapsed",
                "bad",
                "collapsed to a point",
                f"uniformity {value['uniformity']:.4f}, RankMe {value['rankme']:.1f} and a "
                f"deviation of {value['std']:.4f} (1 is a whole sphere): all pictures have nearly "
                "the same features; lower optimizer.learning_rate, check the loss and the data",
            )
        ]
    found, limit = [], max(RANK_LEAST, RANK_SHARE * value["rank_limit"])
    if value["rankme"] < limit:
        k = max(1, round(value["rankme"]))
        found.append(
            Verdict(
                "collapsed",
                "bad",
                f"collapsed to {k} dimension{'s' if k > 1 else ''}",
                f"RankMe {value['rankme']:.1f} of {value['rank_limit']:.0f}, below {limit:.1f}; "
                "lower optimizer.learning_rate or method.temperature, enlarge train.batch_size",
            )
        )
    if value["dead"] > DEAD_SHARE:
        found.append(
            Verdict(
                "dead",
                "warning",
                "dead dimensions",
                f"{100 * value['dead']:.0f} % of the features' dimensions hardly vary; lower "
                "optimizer.learning_rate, or take a narrower model.width",
            )
        )
    return found


def of_input(share: float, remedy: str = "") -> list[Verdict]:
    """Judges the share of time that steps waited for input; ``remedy`` is ``profile.advice``'s."""
    if share <= INPUT_WAIT:
        return []
    return [
        Verdict(
            "waiting for input",
            "warning",
            f"waiting for input {100 * share:.0f} % of the time",
            remedy or "cssl-jax bench-input RECIPE says what limits it and what to change",
        )
    ]


def of_timings(lines: Sequence[Figures]) -> list[Verdict]:
    """Judges the waiting of a whole run; the first line is compiling."""
    lines = [line for line in lines if "input_wait" in line][1:]
    seconds = sum(line["seconds"] for line in lines)
    waited = sum(line["input_wait"] * line["seconds"] for line in lines)
    return of_input(waited / seconds) if seconds else []


def of_online(lines: Sequence[Figures]) -> list[Verdict]:
    """Judges the course of the online evaluations: is the last the best?"""
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
                    "load_encoder(run, checkpoint='best') opens the better one",
                )
            ]
    return []


def of_results(results: Figures) -> list[Verdict]:
    """Judges the final figures beside those of the untrained encoder and of raw pixels."""
    found: list[Verdict] = []
    for name, title in (("linear", "linear probe"), ("knn", "kNN"), ("view_retrieval", "")):
        rows = [results, results.get("random_init", {}), results.get("pixels", {})]
        if not all(name in row for row in rows):
            continue
        title = f"{title} top-1" if title else "view retrieval"
        ours, untrained, pixels = (
            100 * (row[name]["top1"] if isinstance(row[name], Mapping) else row[name])
            for row in rows
        )
        baselines = f"{title} {ours:.1f} %; untrained encoder {untrained:.1f} %, raw pixels"
        if ours <= untrained:
            grade, verdict = "bad", "no better than untrained"
        elif ours <= pixels:
            grade, verdict = "warning", "no better than raw pixels"
        else:
            grade, verdict = "good", "above both floors"
        found.append(Verdict(f"floors {name}", grade, verdict, f"{baselines} {pixels:.1f} %"))  # type: ignore[arg-type]
    return found


def _is_finite(figure: Any) -> bool:
    """Of a step whose update was skipped, metrics.jsonl has nulls."""
    return figure is not None and math.isfinite(figure)


def _mean(lines: Sequence[Figures], name: str, default: float = math.nan) -> float:
    values = [line[name] for line in lines if _is_finite(line.get(name))]
    return sum(values) / len(values) if values else default
