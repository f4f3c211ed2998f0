"""Contrastive losses: pure functions of arrays, the same on one device and over a mapped axis.

Every loss takes this device's rows and returns this device's share: the mean over the axis of the
returned scalars is the loss of the global batch, and the ``pmean`` of their gradients its gradient.
"""

from cssl_jax.losses.ntxent import nt_xent

__all__ = ["nt_xent"]
