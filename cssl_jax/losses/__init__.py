"""Losses: pure functions of arrays, the same on one device and over a mapped axis.

Every loss takes this device's rows and returns this device's share: the mean over the axis of the
returned scalars is the loss of the global batch, and the ``pmean`` of their gradients its gradient.
"""

from cssl_jax.losses.coral import coral
from cssl_jax.losses.dcl import dcl
from cssl_jax.losses.hard_negatives import hard_nt_xent
from cssl_jax.losses.infonce import clip, info_nce
from cssl_jax.losses.margin import contrastive, triplet
from cssl_jax.losses.ntxent import nt_xent
from cssl_jax.losses.sigmoid import nt_logistic, siglip
from cssl_jax.losses.supcon import sup_con

__all__ = [
    "clip",
    "contrastive",
    "coral",
    "dcl",
    "hard_nt_xent",
    "info_nce",
    "nt_logistic",
    "nt_xent",
    "siglip",
    "sup_con",
    "triplet",
]
