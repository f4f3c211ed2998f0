"""Projections of features to two dimensions, for plots: PCA, t-SNE and UMAP.

Rows are first scaled to unit norm. Euclidean distances then order pairs as the cosine similarity
of the kNN evaluation does.
"""

import importlib.util
import warnings

import numpy as np

from cssl_jax.errors import UserError

KINDS = ("pca", "tsne", "umap")
TITLES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
INSTALL = 'pip install "cssl-jax[report]"'
REDUCED = 50  # principal components passed to t-SNE and UMAP, as van der Maaten uses t-SNE
PERPLEXITY = 30.0
MIN_ROWS = 5  # minimum number of rows of a map


def available(kind: str) -> bool:
    """True if a package that computes this kind of map is installed."""
    packages = {"pca": (), "tsne": ("openTSNE", "sklearn"), "umap": ("umap",)}[kind]
    return not packages or any(importlib.util.find_spec(name) for name in packages)


def check_available(kind: str) -> None:
    """Checks that a package for this kind of map is installed.

    Raises:
        UserError: The package is missing; the message has the command that installs it.
    """
    if not available(kind):
        remedy = "pip install umap-learn" if kind == "umap" else INSTALL
        raise UserError(f"{TITLES[kind]} needs a package that is not installed: {remedy}")


def project(features: np.ndarray, kind: str, *, seed: int = 0) -> np.ndarray:
    """Projects features to two dimensions.

    Args:
        features: Float array [N, D] of finite values, N at least 5.
        kind: "pca" projects on the two directions of maximum variance; "tsne" (van der Maaten and
            Hinton 2008) uses openTSNE, or scikit-learn if openTSNE is missing; "umap" uses
            umap-learn.
        seed: Random seed of t-SNE and UMAP; PCA ignores it.

    Returns:
        Coordinates float64 [N, 2].

    Raises:
        UserError: The kind is unknown, its package is missing, or the features have another shape
            or non-finite values.
    """
    if kind not in KINDS:
        raise UserError(f"map {kind!r} is unknown; use {', '.join(KINDS)}")
    check_available(kind)
    if features.ndim != 2 or len(features) < MIN_ROWS or not np.isfinite(features).all():
        raise UserError(
            f"features of shape {features.shape} have no map; give finite numbers [N, D], N at "
            f"least {MIN_ROWS}"
        )
    reduced, _ = principal(features, REDUCED)
    if kind == "pca":
        return reduced[:, :2]
    embed = _umap if kind == "umap" else _tsne
    return np.asarray(embed(reduced, seed), np.float64)


def principal(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal component analysis of features after scaling each row to unit norm.

    The sign of a component is chosen so that its largest weight is positive. The same features
    then give the same plot on every machine.

    Args:
        features: Float array [N, D].
        count: Number of components, C.

    Returns:
        Coordinates float64 [N, max(2, min(C, D))], and the fraction of the variance per component.
        If D is 1, the second column and its fraction are 0.
    """
    x = np.asarray(features, np.float64)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    x -= x.mean(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    coordinates = x @ (vectors * np.where(largest < 0, -1.0, 1.0))[:, :count]
    # The minimum divisor avoids 0 / 0 for collapsed features, whose variance is 0.
    fractions = values[:count] / max(values.sum(), np.finfo(np.float64).tiny)
    missing = max(0, 2 - coordinates.shape[1])
    return np.pad(coordinates, ((0, 0), (0, missing))), np.pad(fractions, (0, missing))


def _tsne(x: np.ndarray, seed: int) -> np.ndarray:
    # t-SNE uses 3 p neighbours for a perplexity of p; a row has N - 1 other rows.
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    scale = x[:, 0].std()
    if scale == 0:  # all rows are identical: the initialization below would divide by 0
        return np.zeros((len(x), 2))
    if importlib.util.find_spec("openTSNE"):
        import openTSNE

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings come from dependencies of openTSNE
            embedded: np.ndarray = openTSNE.TSNE(
                perplexity=perplexity,
                initialization=x[:, :2] / scale * 1e-4,
                random_state=seed,
                # Threads busy-wait for each other: below 1,000 rows they only cost time.
                n_jobs=1 if len(x) < 1000 else -1,
                # Interpolated gradients (Linderman et al. 2019) are faster only for several
                # thousand rows.
                negative_gradient_method="bh" if len(x) < 3000 else "fft",
            ).fit(x)
            return embedded
    from sklearn.manifold import TSNE

    start = (x[:, :2] / scale * 1e-4).astype(np.float32)
    model = TSNE(perplexity=perplexity, init=start, random_state=seed)
    coordinates: np.ndarray = model.fit_transform(x)
    return coordinates


def _umap(x: np.ndarray, seed: int) -> np.ndarray:
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UMAP warns that a seed limits it to one thread
        neighbours = min(15, len(x) - 1)
        model = umap.UMAP(n_neighbors=neighbours, random_state=seed)
        coordinates: np.ndarray = model.fit_transform(x)
        return coordinates
