"""Domain adaptation experiments: settings, training runs, evaluation and result table."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
