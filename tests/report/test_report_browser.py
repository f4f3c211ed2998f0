"""The report in Chromium, if installed: no network request, no error, and working controls."""

import os
import shutil

import numpy as np
import PIL.Image
import pytest

import cssl_jax
from cssl_jax.report.write import write_report
from helpers import tiny

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("CSSL_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
HOSTILE = ("<img src=x onerror=alert(1)>", "'\"<&script>", "{{7*7}}")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found; set CSSL_CHROMIUM to its path"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    source = tiny.image_source(150, channels=3)
    for i, (image, label) in enumerate(zip(source.images, source.labels, strict=True)):
        class_folder = root / "images" / HOSTILE[label]
        class_folder.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(class_folder / f"<script>alert({i})<&script>.png")
    config = tiny.config(epochs=2, evaluate_every=1)
    config = tiny.replace(config, "evaluate", knn_k=5, batch_size=16)
    options = {"source": str(root / "images"), "validation_fraction": 0.4, "size": 8}
    config = tiny.replace(config, "data", **options, min_side=1)
    for name in ("first", "second"):
        cssl_jax.pretrain(config, root / name)
    runs = [root / "first", root / "second"]
    return write_report(runs, root / "report.html", figures=False)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(
    params=[("light", 1280), ("dark", 1280), ("dark", 360)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def opened(request, browser, report):
    """The open page, and a list of its requests, console messages, errors and dialogs."""
    scheme, width = request.param
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    events = []
    page.on("console", lambda message: events.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: events.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (events.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on(
        "request",
        lambda sent: None if sent.url.startswith("data:") else events.append(sent.url[:200]),
    )
    page.goto(report.as_uri())
    yield page, events
    page.close()
    assert events == [report.as_uri()]


def pixels(page, canvas):
    import io

    screenshot = PIL.Image.open(io.BytesIO(canvas.screenshot()))
    return np.asarray(screenshot.convert("RGB"), int)


def test_maps_are_drawn_and_respond_to_pointer_and_keys(opened):
    page, _ = opened
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    first = data["maps"][0]
    canvas = page.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    before = pixels(page, canvas)
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 20  # points are drawn

    canvas.focus()
    page.keyboard.press("ArrowRight")
    picked = page.locator(".picked")
    nearest = first["neighbours"][first["k"] : 2 * first["k"]]
    for box in (picked.nth(0), picked.nth(1)):  # both runs show the same image
        assert first["names"][1] in box.locator("p").inner_text()
    captions = picked.nth(0).locator("figcaption").all_inner_texts()
    assert captions == [first["classes"][first["labels"][i]] for i in [1, *nearest]]

    box = canvas.bounding_box()
    tip = page.locator("canvas + .tip").first
    visible = False
    for x in np.linspace(0.1, 0.9, 17):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + box["height"] / 2)
        if visible := tip.is_visible():
            break
    assert visible
    assert tip.locator("div").inner_text() in first["names"]
    assert tip.locator(".thumb").bounding_box()["width"] == 96
    style = "getComputedStyle(document.querySelector('canvas + .tip .thumb')).backgroundImage"
    assert page.evaluate(style).startswith('url("data:image/')

    page.mouse.move(0, 0)
    page.get_by_role("button", name="PCA").first.click()
    assert (pixels(page, canvas) != before).any()
    chip = page.locator(".legend button").first
    chip.click()
    assert chip.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="zoom in").first.click()


def test_curves_show_values_on_hover_and_the_page_fits_the_screen(opened):
    page, _ = opened
    chart = page.locator("[data-chart] svg").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)
    assert page.locator("[data-chart] .tip").first.inner_text().startswith("epoch ")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"]


def test_text_contrast_meets_wcag_aa_in_both_colour_schemes(opened):
    page, _ = opened
    pairs = page.evaluate(
        """() => ['p', '.pale', 'td', 'a', '.verdicts b', 'svg .tick'].map((name) => {
          const node = document.querySelector(name), style = getComputedStyle(node);
          const box = node.closest('.card') || document.body;
          const ink = name.startsWith('svg') ? style.fill : style.color;
          return [name, ink, getComputedStyle(box).backgroundColor];
        })"""
    )

    def luminance(color):
        numbers = [float(n) for n in color[color.index("(") + 1 : -1].split(",")[:3]]
        linear = [
            n / 255 / 12.92 if n <= 10 else ((n / 255 + 0.055) / 1.055) ** 2.4 for n in numbers
        ]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    for name, ink, paper in pairs:
        light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ink, paper)  # WCAG 2.1, AA
