"""One file a self-supervised method; SimCLR first."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
    from cssl_jax.methods.base import Context, Method, StepOutputs, copied
    from cssl_jax.methods.byol import BYOL, BYOLConfig
    from cssl_jax.methods.cpc import CPC, CPCConfig
    from cssl_jax.methods.dino import DINO, DINOConfig
    from cssl_jax.methods.entry import MethodEntry, Modules
    from cssl_jax.methods.lejepa import LeJEPA, LeJEPAConfig
    from cssl_jax.methods.mae import MAE, MAEConfig
    from cssl_jax.methods.moco_v2 import MoCoV2, MoCoV2Config
    from cssl_jax.methods.moco_v3 import MoCoV3, MoCoV3Config
    from cssl_jax.methods.nnclr import NNCLR, NNCLRConfig
    from cssl_jax.methods.registry import METHODS, method_entry
    from cssl_jax.methods.simclr import SimCLR
    from cssl_jax.methods.simsiam import SimSiam, SimSiamConfig
    from cssl_jax.methods.supervised.adaptation import Adaptation
    from cssl_jax.methods.supervised.classifier import Classifier
    from cssl_jax.methods.supervised.coral import DeepCORAL
    from cssl_jax.methods.supervised.dann import DANN
    from cssl_jax.methods.supervised.distillation import Distillation, DistillationConfig
    from cssl_jax.methods.swav import SwAV, SwAVConfig
    from cssl_jax.methods.ts2vec import TS2Vec, TS2VecConfig
    from cssl_jax.methods.vicreg import VICReg, VICRegConfig

__all__ = [
    "BYOL",
    "CPC",
    "DANN",
    "DINO",
    "MAE",
    "METHODS",
    "NNCLR",
    "Adaptation",
    "BYOLConfig",
    "BarlowTwins",
    "BarlowTwinsConfig",
    "CPCConfig",
    "Classifier",
    "Context",
    "DINOConfig",
    "DeepCORAL",
    "Distillation",
    "DistillationConfig",
    "LeJEPA",
    "LeJEPAConfig",
    "MAEConfig",
    "Method",
    "MethodEntry",
    "MoCoV2",
    "MoCoV2Config",
    "MoCoV3",
    "MoCoV3Config",
    "Modules",
    "NNCLRConfig",
    "SimCLR",
    "SimSiam",
    "SimSiamConfig",
    "StepOutputs",
    "SwAV",
    "SwAVConfig",
    "TS2Vec",
    "TS2VecConfig",
    "VICReg",
    "VICRegConfig",
    "copied",
    "method_entry",
]
__getattr__, __dir__ = public_names(__name__)
