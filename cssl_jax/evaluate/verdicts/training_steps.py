"""Verdicts on the loss, the contrast, the projections and the trust ratios of training steps."""

import math
from collections.abc import Iterable, Sequence

from cssl_jax.evaluate.verdicts.base import Facts, Metrics, Verdict, is_finite, mean

LINES = 5  # number of newest log lines whose mean is evaluated: one batch is noisy
AT_CHANCE = 0.02  # relative distance from the chance level within which a loss is at chance
TOO_EASY = 0.99  # contrastive accuracy in the first half from which on views are too easy
# Spread of projections below which they are one point: a mean squared distance of 0.025, as for
# the uniformity of features.
PROJECTION_POINT = 0.11
# What a target says about its image, in nats, below which all images have the same target.
TARGETS_ALIKE = 0.05
# Trust ratio above which LARS follows weight decay, as a fraction of the one without a gradient.
DECAY_FRACTION = 0.5
LARGEST_STEP = 0.05  # maximum healthy update per step, as a fraction of a tensor's norm


def check_steps(lines: Iterable[Metrics], known: Facts) -> list[Verdict]:
    """Verdicts on the metrics of the newest training steps.

    Args:
        lines: Lines of ``metrics.jsonl`` in the order of steps, each with "step".
        known: Facts of the run. There are no verdicts before the step ``applies_from``.
    """
    lines = [line for line in lines if is_finite(line.get("loss"))][-LINES:]
    if not lines or lines[-1]["step"] < known.applies_from:
        return []
    step = lines[-1]["step"]
    first_half = 2 * step <= known.total_steps
    verdicts: list[Verdict] = []
    if known.chance is not None:
        verdicts += _check_chance(lines, known.chance, known, first_half)
    accuracy = mean(lines, "contrastive_accuracy", default=0.0)
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
    verdicts += _check_projections(lines) + _check_targets(lines)
    return verdicts + _check_trust_ratios(lines[-1], known)


def _check_projections(lines: Sequence[Metrics]) -> list[Verdict]:
    """Verdict on the spread of the projections: 0 if they are one point, 1 where healthy."""
    spread = mean(lines, "projection_std", default=1.0)
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


def _check_targets(lines: Sequence[Metrics]) -> list[Verdict]:
    """Verdict on what a teacher's targets say about their images, as in DINO."""
    information = mean(lines, "target_information", default=math.inf)
    if information >= TARGETS_ALIKE:
        return []
    entropy = mean(lines, "target_entropy")
    return [
        Verdict(
            "targets collapsed",
            "bad",
            "all images have the same target",
            f"a target holds {information:.3f} nats about its image (entropy {entropy:.3f}), so "
            "that a low loss says nothing; lower method.target_temperature if the entropy is high, "
            "lower method.centre_momentum if it is near 0, and lower optimizer.learning_rate",
        )
    ]


def _check_chance(
    lines: Sequence[Metrics], chance: float, known: Facts, first_half: bool
) -> list[Verdict]:
    loss = mean(lines, "loss")
    # A loss that falls through the chance level has a confident softmax. Only a flat softmax, whose
    # entropy is at chance too, has learnt nothing.
    entropy = mean(lines, "contrastive_entropy", default=chance)
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
            "the encoder does not distinguish the other view of an example from other examples; "
            "check the views (cssl-jax views) and the collapse metrics, and change "
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
        "examples are closer than the other view of an example; train longer, weaken augment.*, or "
        "raise method.temperature",
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


def _check_trust_ratios(line: Metrics, known: Facts) -> list[Verdict]:
    """Verdicts on the LARS trust ratios eta |w| / |u|, u = gradient + lambda w."""
    if not is_finite(line.get("trust_ratio_median")):
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
