"""Loss functions: pure functions of arrays that run on one device or over a mapped axis.

Every loss takes the rows of this device and returns the local loss. The mean of the local losses
over the axis is the loss of the global batch. The ``pmean`` of their gradients is its gradient.
"""

from cssl_jax.losses.barlow_twins import barlow_twins
from cssl_jax.losses.coral import coral
from cssl_jax.losses.cosine import negative_cosine, unit_std
from cssl_jax.losses.dcl import dcl
from cssl_jax.losses.dino import self_distillation
from cssl_jax.losses.hard_negatives import hard_nt_xent
from cssl_jax.losses.hierarchical import hierarchical_contrast
from cssl_jax.losses.infonce import clip, info_nce
from cssl_jax.losses.koleo import koleo
from cssl_jax.losses.margin import contrastive, triplet
from cssl_jax.losses.ntxent import nt_xent
from cssl_jax.losses.predictive import predictive_contrast
from cssl_jax.losses.registry import LOSSES, LossEntry, loss_entry
from cssl_jax.losses.sigmoid import nt_logistic, siglip
from cssl_jax.losses.sigreg import sigreg
from cssl_jax.losses.supcon import sup_con
from cssl_jax.losses.swav import sinkhorn, swapped_prediction
from cssl_jax.losses.vicreg import vicreg

__all__ = [
    "LOSSES",
    "LossEntry",
    "barlow_twins",
    "clip",
    "contrastive",
    "coral",
    "dcl",
    "hard_nt_xent",
    "hierarchical_contrast",
    "info_nce",
    "koleo",
    "loss_entry",
    "negative_cosine",
    "nt_logistic",
    "nt_xent",
    "predictive_contrast",
    "self_distillation",
    "siglip",
    "sigreg",
    "sinkhorn",
    "sup_con",
    "swapped_prediction",
    "triplet",
    "unit_std",
    "vicreg",
]
