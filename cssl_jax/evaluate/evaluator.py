"""Judges an encoder during a run and after it, by labels where there are some."""

from typing import Any

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh

from cssl_jax.config import Config
from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.data.sources import Source
from cssl_jax.errors import UserError
from cssl_jax.evaluate import protocols
from cssl_jax.evaluate.features import (
    InputSpec,
    Model,
    encoder_variables,
    make_embed,
    pixels,
)


class Evaluator:
    """The evaluation that a config asks for, on its data; compiled once."""

    def __init__(
        self,
        config: Config,
        encoder: nn.Module,
        spec: InputSpec,
        train: Source,
        validation: Source,
        mesh: Mesh,
    ) -> None:
        self._config = config
        self._spec = spec
        train = _labelled_part(train)
        limit = config.evaluate.train_limit
        if limit == 1:
            raise UserError("evaluate.train_limit is 1; a probe needs 2 images or more, 0 is all")
        if 0 < limit < len(train):
            # A keyed part: the first rows of a set sorted by class would lack classes.
            order = permute(np.arange(len(train)), epoch_key(config.train.seed, 0), len(train))
            train = train.take(np.sort(order[:limit]).astype(np.int64))
        self._train = train
        self._validation = _labelled_part(validation)
        self._embed = make_embed(
            encoder,
            mesh,
            size=spec.size,
            mean=spec.mean,
            std=spec.std,
            batch_size=config.evaluate.batch_size,
        )

    @property
    def labelled(self) -> bool:
        """Whether both parts have labels."""
        return all(
            part.labels is not None and part.labels.min() >= 0
            for part in (self._train, self._validation)
        )

    def judge(
        self, features: protocols.Features, names: tuple[str, ...] = protocols.PROTOCOLS
    ) -> dict[str, Any]:
        """Figures of one way to make features."""
        if not self.labelled:
            return dict(
                protocols.unlabelled(
                    features,
                    self._validation,
                    self._config.augment,
                    size=self._spec.size,
                    seed=self._config.train.seed,
                )
            )
        return protocols.labelled(
            features,
            self._train,
            self._validation,
            protocols=names,
            knn_k=self._config.evaluate.knn_k,
            knn_temperature=self._config.evaluate.knn_temperature,
            seed=self._config.train.seed,
        )

    @staticmethod
    def flat(figures: dict[str, Any]) -> dict[str, float]:
        """Figures of ``judge`` by dotted names: {"knn.top1": ..., ...}."""
        flat: dict[str, float] = {}
        for name, value in figures.items():
            if isinstance(value, dict):  # a protocol; its settings are no figures
                flat |= {f"{name}.{top}": value[top] for top in ("top1", "top5")}
            else:
                flat[name] = value
        return flat

    def beside_floors(
        self,
        figures: dict[str, Any],
        untrained: Model,
        names: tuple[str, ...] = protocols.PROTOCOLS,
    ) -> dict[str, Any]:
        """Figures of the encoder, with the same of the untrained one and of raw pixels."""
        return {
            "num_classes": self._train.num_classes if self.labelled else 0,
            **figures,
            "random_init": self.judge(self.features(untrained), names),
            "pixels": self.judge(pixels, names),
        }

    def features(self, model: Model) -> protocols.Features:
        """The encoder of a model as a function from a source to features."""
        variables = encoder_variables(model)
        return lambda source: self._embed(variables, source)


def _labelled_part(source: Source) -> Source:
    """The examples that have a label, where some have and some have not."""
    if source.labels is None or source.labels.min() >= 0 or source.labels.max() < 0:
        return source
    return source.take(np.flatnonzero(source.labels >= 0))
