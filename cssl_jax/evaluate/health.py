"""Health metrics of an encoder's features during training, with or without labels."""

import itertools
from collections.abc import Iterable

import jax
import numpy as np

from cssl_jax.augment.base import Policy
from cssl_jax.data.pipeline.eval_views import view_pairs
from cssl_jax.data.sources.base import Examples, Source, seeded_subset
from cssl_jax.evaluate import diagnostics
from cssl_jax.evaluate.protocols.knn import nearest
from cssl_jax.evaluate.protocols.run import Features, embed_pairs
from cssl_jax.modalities.base import Modality

ROWS = 2048  # maximum number of images: a singular value decomposition of 2048 x 2048 takes seconds
NEIGHBOURS = 5  # number of nearest neighbours for the label purity
STILL = 0.01  # a dimension is dead below this fraction of the mean standard deviation
KEPT_BYTES = 2**26  # maximum size of the views that are kept in memory between evaluations


class Health:
    """Computes health metrics of fixed held-out images and of two fixed views per image."""

    def __init__(
        self, source: Source, policy: Policy, *, size: int, seed: int, modality: Modality
    ) -> None:
        """Selects at most ``ROWS`` images of ``source`` at random with the seed.

        Args:
            source: Images that were not used for training, with or without labels.
            policy: Augmentation policy that draws the views, the one of the training.
            size: Size of the views, such as the side of an image in pixels.
            seed: Seed of the selection and of the views.
            modality: Modality of the examples.
        """
        source = seeded_subset(source, ROWS, seed=seed)
        self._source, self._policy, self._size, self._seed = source, policy, size, seed
        self._modality = modality
        self._cached_views: list[Examples] | None = None

    def metrics(self, features: Features) -> dict[str, float]:
        """Computes the metrics {"features.NAME": value} of an encoder.

        Args:
            features: Function from a source of N images to features float32 [N, D].

        Returns:
            Metrics with these names:

            * rows: number of images N
            * rank_limit: min(N, D)
            * alignment, uniformity, rankme, view_retrieval: see ``diagnostics``
            * std: root of the summed variance of unit-norm features; 0 is a point, 1 a sphere about
              the origin
            * dead: fraction of dimensions that hardly vary
            * neighbour_purity: fraction of the 5 nearest neighbours with the example's label;
              only with labels
            * purity_chance: the same fraction for images drawn at random; only with labels
        """
        z1, z2 = embed_pairs(features, self._views())
        deviation = np.asarray(diagnostics.per_dimension_std(z1), np.float64)
        metrics = {
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
        return {f"features.{name}": value for name, value in metrics.items()}

    def _views(self) -> Iterable[Examples]:
        """Blocks of views as examples, trees of arrays [r, 2, ...]; cached unless large."""
        if self._cached_views is not None:
            return self._cached_views
        blocks = view_pairs(
            self._source,
            self._policy,
            size=self._size,
            seed=self._seed,
            modality=self._modality,
        )
        first = next(blocks)
        leaves = jax.tree.leaves(first)
        per_example = sum(leaf.nbytes for leaf in leaves) / len(leaves[0])
        blocks = itertools.chain([first], blocks)
        if per_example * len(self._source) > KEPT_BYTES:
            return blocks
        self._cached_views = list(blocks)
        return self._cached_views

    def _purity(self, features: Features) -> dict[str, float]:
        """Label purity of the nearest neighbours; {} without labels or with too few images."""
        labels = self._source.labels
        if labels is None or labels.min() < 0 or len(labels) <= NEIGHBOURS:
            return {}
        index = nearest(features(self._source), NEIGHBOURS)
        class_fractions = np.bincount(labels) / len(labels)
        return {
            "neighbour_purity": float(np.mean(labels[index] == labels[:, None])),
            "purity_chance": float(np.sum(class_fractions**2)),
        }
