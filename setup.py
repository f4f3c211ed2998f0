"""Adds the recipes, which lie in ``configs/``, to the packages that are found."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["cssl_jax", "cssl_jax.*"]), "cssl_jax.configs"])
