"""Checks in child processes that a recipe's step does not depend on the number of devices."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.selfcheck.run import SelfCheck, selfcheck

__all__ = [
    "SelfCheck",
    "selfcheck",
]
__getattr__, __dir__ = public_names(__name__)
