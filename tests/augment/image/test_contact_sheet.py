import numpy as np
import pytest

from cssl_jax.augment.image import contact_sheet
from cssl_jax.augment.image.contact_sheet import Example, View, draw_sheet

COLORS = np.array([(200, 30, 40), (30, 200, 40), (40, 30, 200), (200, 200, 30)], np.uint8)


def box(top, left, height, width):
    right, bottom = left + width, top + height
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def example(height=8, width=8, channels=3, size=8, description=("unchanged",), name="image 3"):
    pixels = np.zeros((height, width, channels), np.uint8)
    views = [View(np.zeros((size, size, channels), np.uint8), box(1, 1, 4, 4), description)] * 2
    return Example(pixels, [name], views)


def count(page, color):
    return int((np.asarray(page) == color).all(-1).sum())


def test_small_images_are_enlarged_without_smoothing():
    pixels = COLORS.reshape(2, 2, 3)
    view = View(pixels, box(0, 0, 2, 2), ["unchanged"])
    page = draw_sheet([Example(pixels, ["image"], [view, view])], "title", "subtitle")
    # Each colour fills a quarter of the original (partly under outlines) and of both views.
    for color in COLORS:
        assert 0.95 * 3 * 112**2 < count(page, color) <= 3 * 112**2


def test_every_view_has_its_frame_and_its_outline_on_the_original():
    page = draw_sheet([example()], "title", "subtitle")
    side = contact_sheet.SIDE
    for color in contact_sheet.COLORS[:2]:
        assert count(page, color) >= 4 * side * contact_sheet.FRAME  # pixels of the frame
    original = np.asarray(page)[:, : contact_sheet.MARGIN + side]
    # The second outline covers the first one. Both are squares of half the side.
    assert (original == contact_sheet.COLORS[1]).all(-1).sum() > 4 * side / 2


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (300, 40), (40, 900), (224, 224), (1, 1)])
def test_images_of_any_shape_and_number_of_channels_fit_the_page(height, width, channels):
    page = draw_sheet([example(height, width, channels)], "title", "subtitle")
    assert page.width < 1000
    assert page.height < 600


def test_an_outline_beyond_the_image_stays_on_the_page_and_off_the_views():
    beyond = example()
    far = [View(v.pixels, box(-3, -3, 14, 14), v.description) for v in beyond.views]
    page = draw_sheet([Example(beyond.pixels, beyond.description, far)], "title", "subtitle")
    pixels = np.asarray(page)
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()
    # Both views are entirely black inside their frames, so no outline crosses them.
    assert count(page, (0, 0, 0)) > 2.9 * contact_sheet.SIDE**2 - 8 * contact_sheet.SIDE


def test_every_example_is_a_row():
    one, three = (draw_sheet([example()] * n, "title", "subtitle") for n in (1, 3))
    assert one.width == three.width
    row = (three.height - one.height) / 2
    assert contact_sheet.SIDE < row < 1.5 * contact_sheet.SIDE


def test_texts_stay_within_their_column_and_use_only_characters_of_the_font():
    long = ["brightness x0.51, hue -0.04, saturation x1.23, contrast x0.59", "n" * 90 + ".JPEG"]
    lines = contact_sheet._wrap([*long, "caf\xe9\udce9 12°"], contact_sheet.SIDE)
    assert lines[0].endswith(",")
    assert lines[1].startswith("   ")
    assert all(contact_sheet._font(14).getlength(line) <= contact_sheet.SIDE + 8 for line in lines)
    assert lines[-2].startswith("nnn")
    assert lines[-2].endswith("n.JPEG")
    assert "…" in lines[-2]
    assert lines[-1] == "caf?? 12°"
