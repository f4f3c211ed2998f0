"""Verdicts on a whole run: time waited for input, online metrics, final metrics."""

from collections.abc import Sequence

from cssl_jax.evaluate.results import UNTRAINED, Results
from cssl_jax.evaluate.scores import Accuracy, Scores
from cssl_jax.evaluate.verdicts.base import Grade, Metrics, Verdict

INPUT_WAIT = 0.1  # maximum healthy fraction of the time that steps wait for input
PAST_BEST = 0.01  # maximum healthy drop below the best online score, in fractions of the images


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
