"""Methods by name; a new one is a file in this package and a line here."""

from cssl_jax.methods.entry import MethodEntry
from cssl_jax.registries import look_up

METHODS: dict[str, str | MethodEntry] = {
    "simclr": "cssl_jax.methods.simclr:ENTRY",
    "barlow_twins": "cssl_jax.methods.barlow_twins:ENTRY",
    "vicreg": "cssl_jax.methods.vicreg:ENTRY",
    "simsiam": "cssl_jax.methods.simsiam:ENTRY",
    "byol": "cssl_jax.methods.byol:ENTRY",
    "moco_v2": "cssl_jax.methods.moco_v2:ENTRY",
    "moco_v3": "cssl_jax.methods.moco_v3:ENTRY",
    "nnclr": "cssl_jax.methods.nnclr:ENTRY",
    "swav": "cssl_jax.methods.swav:ENTRY",
    "dino": "cssl_jax.methods.dino:ENTRY",
    "lejepa": "cssl_jax.methods.lejepa:ENTRY",
    "mae": "cssl_jax.methods.mae:ENTRY",
    "classifier": "cssl_jax.methods.supervised.classifier:ENTRY",
    "coral": "cssl_jax.methods.supervised.coral:ENTRY",
    "dann": "cssl_jax.methods.supervised.dann:ENTRY",
    "distillation": "cssl_jax.methods.supervised.distillation:ENTRY",
    "ts2vec": "cssl_jax.methods.ts2vec:ENTRY",
    "cola": "cssl_jax.methods.cola:ENTRY",
    "cpc": "cssl_jax.methods.cpc:ENTRY",
    "simcse": "cssl_jax.methods.simcse:ENTRY",
}


def method_entry(name: str) -> MethodEntry:
    """Returns the entry of a method.

    Args:
        name: Key of ``METHODS``, or "file.py:NAME" of a ``MethodEntry`` in a file.

    Raises:
        UserError: There is no such method.

    Example:
        >>> method_entry("simclr").contrastive
        True
    """
    return look_up("method", name, METHODS, MethodEntry)
