"""Views of one image on the host: geometry, interpolation, colours."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
