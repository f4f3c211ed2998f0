"""Features in two dimensions, to be looked at: PCA, t-SNE, UMAP.

Rows are brought to unit length first: distances then mean what the kNN's cosines mean.
"""

import importlib.util
import warnings

import numpy as np

from cssl_jax.errors import UserError

KINDS = ("pca", "tsne", "umap")
TITLES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
INSTALL = 'pip install "cssl-jax[report]"'
REDUCED = 50  # principal components that t-SNE and UMAP see, as in van der Maaten's own use
PERPLEXITY = 30.0
LEAST = 5  # rows that a map is made of


def available(kind: str) -> bool:
    """Whether what a kind of map needs is installed."""
    wanted = {"pca": (), "tsne": ("openTSNE", "sklearn"), "umap": ("umap",)}[kind]
    return not wanted or any(importlib.util.find_spec(name) for name in wanted)


def check_available(kind: str) -> None:
    """Raises UserError, with the command that helps, where a kind's package is missing."""
    if not available(kind):
        remedy = "pip install umap-learn" if kind == "umap" else INSTALL
        raise UserError(f"{TITLES[kind]} needs a package that is not installed: {remedy}")


def project(features: np.ndarray, kind: str, *, seed: int = 0) -> np.ndarray:
    """Features [N, D] to places float64 [N, 2].

    Args:
        features: At least 5 rows; those that are not finite are an error.
        kind: "pca", the two directions of most variance; "tsne" (van der Maaten and Hinton 2008) by
            openTSNE, or scikit-learn where only that is there; "umap" by umap-learn.
        seed: Of t-SNE and UMAP.

    Raises:
        UserError: An unknown kind, a package that is missing, or features that have no map.
    """
    if kind not in KINDS:
        raise UserError(f"map {kind!r} is unknown; use {', '.join(KINDS)}")
    check_available(kind)
    if features.ndim != 2 or len(features) < LEAST or not np.isfinite(features).all():
        raise UserError(
            f"features {features.shape} have no map; give [N, D] finite numbers, N at least {LEAST}"
        )
    reduced, _ = principal(features, REDUCED)
    if kind == "pca":
        return reduced[:, :2]
    make = _umap if kind == "umap" else _tsne
    return np.asarray(make(reduced, seed), np.float64)


def principal(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(coordinates float64 [N, count] by principal components, their shares of the variance).

    At least two columns; those beyond the features' own are 0. A component's sign is such that its
    largest weight is positive, so that the same features give the same picture anywhere.
    """
    x = np.asarray(features, np.float64)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)
    x -= x.mean(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    places = x @ (vectors * np.where(largest < 0, -1.0, 1.0))[:, :count]
    shares = values[:count] / max(values.sum(), np.finfo(np.float64).tiny)
    missing = max(0, 2 - places.shape[1])
    return np.pad(places, ((0, 0), (0, missing))), np.pad(shares, (0, missing))


def _tsne(x: np.ndarray, seed: int) -> np.ndarray:
    # A perplexity of p asks for 3 p neighbours.
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    scale = x[:, 0].std()
    if scale == 0:  # all rows alike: nothing to spread
        return np.zeros((len(x), 2))
    if importlib.util.find_spec("openTSNE"):
        import openTSNE

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            return openTSNE.TSNE(
                perplexity=perplexity,
                initialization=x[:, :2] / scale * 1e-4,
                random_state=seed,
                # Threads that wait for each other spin: below this they only cost time.
                n_jobs=1 if len(x) < 1000 else -1,
                # Interpolated gradients pay off beyond a few thousand rows (Linderman et al. 2019).
                negative_gradient_method="bh" if len(x) < 3000 else "fft",
            ).fit(x)
    from sklearn.manifold import TSNE

    start = (x[:, :2] / scale * 1e-4).astype(np.float32)
    return TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(x)


def _umap(x: np.ndarray, seed: int) -> np.ndarray:
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one thread where there is a seed
        neighbours = min(15, len(x) - 1)
        return umap.UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(x)
