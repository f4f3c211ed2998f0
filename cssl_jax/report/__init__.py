"""Report of training runs as HTML, Markdown, plots and terminal tables."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
