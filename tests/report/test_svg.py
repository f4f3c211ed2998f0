import re

import numpy as np
import pytest

from cssl_jax.report.figures import svg
from cssl_jax.report.figures.curves import Chart, Series


def points(text):
    return [
        [tuple(map(float, pair.split(","))) for pair in line.split()]
        for line in re.findall(r'<polyline [^>]*points="([^"]*)"', text)
    ]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (3.99, 5.78, [3.5, 4, 4.5, 5, 5.5, 6]),
        (-1.1, -0.99, [-1.1, -1.05, -1, -0.95]),
        (5, 5, []),
    ],
)
def test_ticks_are_round_and_cover_the_values(low, high, expected):
    ticks = svg.ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    np.testing.assert_allclose(np.diff(ticks), np.diff(ticks)[0])
    if low != high:
        assert ticks == pytest.approx(expected)


def test_a_line_is_drawn_to_the_scale_of_its_axes():
    chart = Chart("RankMe", "", [Series("a", 0, [0.0, 5.0, 10.0], [0.0, 100.0, 50.0])])
    (line,) = points(svg.line_chart(chart))
    left, right = svg.LEFT, svg.WIDTH - svg.RIGHT
    top, bottom = svg.TOP, svg.HEIGHT - svg.BOTTOM
    assert line == [
        (left, bottom),
        pytest.approx(((left + right) / 2, top), abs=0.1),
        (right, pytest.approx((top + bottom) / 2, abs=0.1)),
    ]


def test_trust_ratios_have_decades_of_equal_height():
    chart = Chart("LARS trust ratios", "", [Series("a", 0, [0.0, 1.0, 2.0], [1e-3, 1e-2, 1e-1])])
    (line,) = points(svg.line_chart(chart))
    steps = np.diff([y for _, y in line])
    np.testing.assert_allclose(steps[0], steps[1], atol=0.2)


def test_non_finite_values_are_skipped():
    chart = Chart("Loss", "nats", [Series("a", 0, [0.0, 1.0, 2.0], [1.0, float("nan"), 2.0])])
    (line,) = points(svg.line_chart(chart))
    assert len(line) == 2
    none = Chart("Loss", "nats", [Series("a", 0, [0.0], [float("inf")])])
    assert svg.line_chart(none) == ""


def test_many_points_are_averaged_in_groups_that_keep_the_mean():
    y = np.random.default_rng(0).normal(size=4000)
    thinned = svg.thin(np.arange(4000.0), y)
    assert len(thinned) == svg.MAX_POINTS
    assert np.mean([b for _, b in thinned]) == pytest.approx(y.mean())


@pytest.mark.parametrize("classes", [3, 100])
def test_a_confusion_matrix_has_a_cell_for_every_count(classes):
    rng = np.random.default_rng(0)
    counts = np.diag(rng.integers(5, 9, classes))
    counts[0, 2] = 4
    text = svg.confusion_matrix(counts, [f"<{i}>" for i in range(classes)])
    titles = re.findall(r"<title>true &lt;(\d+)&gt;, predicted &lt;(\d+)&gt;: (\d+)", text)
    drawn = {(int(a), int(b)): int(n) for a, b, n in titles}
    expected = {(int(a), int(b)): int(counts[a, b]) for a, b in zip(*counts.nonzero(), strict=True)}
    assert drawn == expected
    assert text.count('class="miss"') == 1
    assert text.count("<rect") == 1 + classes + 1
