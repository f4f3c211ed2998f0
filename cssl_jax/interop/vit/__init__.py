"""Weights of Vision Transformers: names of timm and torchvision, recognition, export."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
