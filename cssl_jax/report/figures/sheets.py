"""Sheets of validation images that a report shows for some encoders and methods."""

from collections.abc import Callable
from typing import NamedTuple

import PIL.Image

from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.encoders.load import Encoder
from cssl_jax.report.figures.gallery import Gallery
from cssl_jax.report.figures.reconstructions import has_reconstructions, reconstruction_sheet
from cssl_jax.report.figures.token_maps import has_token_maps, token_sheet

ROWS = 6  # images of a sheet


class Sheet(NamedTuple):
    """A kind of sheet.

    Attributes:
        title: Title of the section.
        label: Sentence below the sheet, without its period.
        applies: Whether a run has such a sheet.
        draw: Draws it.
    """

    title: str
    label: str
    applies: Callable[[Encoder], bool]
    draw: Callable[[Encoder, Gallery], PIL.Image.Image]


def _shown(gallery: Gallery) -> Source:
    """Images of as many classes as possible, see ``Gallery.queries``."""
    return gallery.source.take(gallery.queries()[:ROWS])


SHEETS = {
    "reconstructions": Sheet(
        "Reconstructions",
        "Validation images, their visible patches, and the prediction of all others",
        has_reconstructions,
        lambda encoder, gallery: reconstruction_sheet(encoder, _shown(gallery), gallery.seed),
    ),
    "patches": Sheet(
        "Patches",
        "Validation images, the principal axes of their patches as colours, and the attention of "
        "the class token",
        has_token_maps,
        lambda encoder, gallery: token_sheet(encoder, _shown(gallery)),
    ),
}
