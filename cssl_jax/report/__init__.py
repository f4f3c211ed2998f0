"""Report of training runs as HTML, Markdown, plots and terminal tables."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.report.figures.plots import draw as draw_plot
    from cssl_jax.report.run_reader import RunFolder, open_run
    from cssl_jax.report.table import Column, Table
    from cssl_jax.report.views import draw_views, load_views
    from cssl_jax.report.write import write_report

__all__ = [
    "Column",
    "RunFolder",
    "Table",
    "draw_plot",
    "draw_views",
    "load_views",
    "open_run",
    "write_report",
]
__getattr__, __dir__ = public_names(__name__)
