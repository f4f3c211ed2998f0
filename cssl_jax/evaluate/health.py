"""Figures of features that tell an encoder's health, with labels or without."""

import numpy as np

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.data.pipeline.eval_views import view_pairs
from cssl_jax.data.sources.base import ArraySource, Source, seeded_subset
from cssl_jax.evaluate import diagnostics
from cssl_jax.evaluate.protocols.knn import nearest
from cssl_jax.evaluate.protocols.run import Features

ROWS = 2048  # pictures at most: a singular value decomposition of 2048 x 2048 takes seconds
NEIGHBOURS = 5  # of purity
STILL = 0.01  # of the mean deviation: a dimension that varies less is dead
KEPT_BYTES = 2**26  # of views, made once where they are no more than that


class Health:
    """Judges features of held-out pictures and of two views each; the same ones every time."""

    def __init__(self, source: Source, policy: ImagePolicy, *, size: int, seed: int) -> None:
        """Takes a part of ``source``, chosen by the seed where it is large.

        Args:
            source: Images that were not trained on, with labels or without.
            policy: Draws the views, as in training.
            size: Of the views.
            seed: Of the draws.
        """
        source = seeded_subset(source, ROWS, seed=seed)
        self._source, self._policy, self._size, self._seed = source, policy, size, seed
        self._kept: list[np.ndarray] | None = None

    def figures(self, features: Features) -> dict[str, float]:
        """{"features.NAME": figure}.

        NAME is rows (N), rank_limit (min(N, D)), alignment, uniformity, rankme, view_retrieval;
        std, the root of the summed variance of unit-length features (0 is a point, 1 a sphere about
        the origin); dead, the share of dimensions that hardly vary; and, with labels,
        neighbour_purity, the share of the 5 nearest neighbours that share a picture's label, and
        purity_chance, that of pictures drawn at random.
        """
        z1, z2 = self._embed_views(features)
        deviation = np.asarray(diagnostics.per_dimension_std(z1), np.float64)
        found = {
            "rows": float(len(z1)),
            "rank_limit": float(min(z1.shape)),
            "alignment": float(diagnostics.alignment(z1, z2)),
            "uniformity": float(diagnostics.uniformity(z1)) if len(z1) > 1 else 0.0,
            "rankme": float(diagnostics.rankme(z1)),
            "view_retrieval": float(diagnostics.view_retrieval(z1, z2)),
            "std": float(np.sqrt(np.sum(deviation**2))),
            "dead": float(np.mean(deviation <= STILL * deviation.mean())),
            **self._purity(features),
        }
        return {f"features.{name}": value for name, value in found.items()}

    def _embed_views(self, features: Features) -> list[np.ndarray]:
        parts = [
            [features(ArraySource("views", views[:, v])) for v in range(2)]
            for views in self._views()
        ]
        return [np.concatenate(views) for views in zip(*parts, strict=True)]

    def _views(self) -> list[np.ndarray]:
        if self._kept is not None:
            return self._kept
        drawn = view_pairs(self._source, self._policy, size=self._size, seed=self._seed)
        if 2 * len(self._source) * self._size**2 * self._source.channels > KEPT_BYTES:
            return drawn  # type: ignore[return-value]
        self._kept = list(drawn)
        return self._kept

    def _purity(self, features: Features) -> dict[str, float]:
        labels = self._source.labels
        if labels is None or labels.min() < 0 or len(labels) <= NEIGHBOURS:
            return {}
        index = nearest(features(self._source), NEIGHBOURS)
        shares = np.bincount(labels) / len(labels)
        return {
            "neighbour_purity": float(np.mean(labels[index] == labels[:, None])),
            "purity_chance": float(np.sum(shares**2)),
        }
