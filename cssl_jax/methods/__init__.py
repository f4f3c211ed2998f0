"""One file a self-supervised method; SimCLR first."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.methods.adaptation import Adaptation
    from cssl_jax.methods.base import Context, Method, StepOutputs, copied
    from cssl_jax.methods.classifier import Classifier
    from cssl_jax.methods.coral import DeepCORAL
    from cssl_jax.methods.cpc import CPC, CPCConfig
    from cssl_jax.methods.dann import DANN
    from cssl_jax.methods.entry import MethodEntry, Modules
    from cssl_jax.methods.registry import METHODS, method_entry
    from cssl_jax.methods.simclr import SimCLR
    from cssl_jax.methods.ts2vec import TS2Vec, TS2VecConfig

__all__ = [
    "CPC",
    "DANN",
    "METHODS",
    "Adaptation",
    "CPCConfig",
    "Classifier",
    "Context",
    "DeepCORAL",
    "Method",
    "MethodEntry",
    "Modules",
    "SimCLR",
    "StepOutputs",
    "TS2Vec",
    "TS2VecConfig",
    "copied",
    "method_entry",
]
__getattr__, __dir__ = public_names(__name__)
