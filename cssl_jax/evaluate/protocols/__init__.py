"""Evaluation protocols on frozen features: kNN, linear, few-shot, retrieval, segmentation."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
