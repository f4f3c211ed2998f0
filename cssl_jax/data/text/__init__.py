"""Text as data: tokenizers and bags of terms."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
