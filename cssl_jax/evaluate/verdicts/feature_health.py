"""Verdicts on collapse, difficulty of the views, and neighbours of held-out features."""

import math

from cssl_jax.evaluate.verdicts.base import Facts, Metrics, Verdict

# Uniformity above which features are one point: a mean squared distance of 0.025 between images.
POINT = -0.05
# Minimum healthy RankMe: as a fraction of the largest possible rank, and in dimensions.
RANK_FRACTION, MIN_RANK = 0.03, 2.0
DEAD_FRACTION = 0.5  # fraction of dead dimensions above which there is a warning
# Squared distance of two views above which views are too hard, as a fraction of the squared
# distance of different images.
TOO_HARD = 0.97
ERRORS = 3.0  # number of standard errors above chance within which a purity counts as chance


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
                "the mean squared distance of two views of an example is "
                f"{value['alignment']:.3f}, that of different examples {distance:.3f}: views have "
                "too little in common; weaken augment.* (larger crop_area) or train longer",
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
                    f"{100 * purity:.1f} % of nearest neighbours have the label of their example, "
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
