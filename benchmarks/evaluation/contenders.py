"""What is measured, each in a process of its own that has nothing else to do."""

import importlib.metadata
import os
import time
import warnings
from collections.abc import Callable

import numpy as np
from measuring import process

from evaluation.features import CLASSES, draw

KNN = {
    "ours": "ours, neighbours",
    "ours-votes": "ours, votes of 8 k's",
    "faiss": "faiss-cpu, IndexFlatIP",
    "sklearn": "scikit-learn, brute, cosine",
    "sklearn-euclidean": "scikit-learn, brute, Euclidean",
}
PROBES = {
    "ours": "ours, all together",
    "sklearn": "scikit-learn, loop",
    "sklearn-warm": "scikit-learn, loop, warm start",
}
KS = (1, 5, 10, 20, 50, 100, 150, 200)


def _timed(run: Callable, repeats: int) -> tuple[object, list[float]]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = run()
        times.append(time.perf_counter() - start)
    return found, times


def _versions(*names: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in names}


# -------------------------------------------------------------------------------------------- kNN


def knn(contender: str, bank: int, queries: int, width: int, k: int, repeats: int) -> dict:
    """Neighbours of raw features by cosine; normalising them is a part of the work.

    Returns:
        ``first_s`` with all compiling and starting, ``times_s`` of the further runs,
        ``features_bytes``, ``peak_bytes`` of the whole process once the features are made, and
        ``similarity``, the mean over all neighbours, and ``farthest``, of the k-th alone.
    """
    run, versions = _KNN[contender]()
    x, labels = draw(bank, width, 1)
    y, y_labels = draw(queries, width, 2)
    process.reset_peak()
    found, times = _timed(lambda: run(x, labels, y, y_labels, k), 1 + repeats)
    return {
        **found,
        "first_s": times[0],
        "times_s": times[1:],
        "features_bytes": x.nbytes + y.nbytes,
        "peak_bytes": process.peak_bytes(),
        "versions": versions,
    }


def _checks(similarity: np.ndarray) -> dict[str, float]:
    return {
        "similarity": float(similarity.mean(dtype=np.float64)),
        "farthest": float(similarity[:, -1].mean(dtype=np.float64)),
    }


def _ours():
    from cssl_jax.evaluate.protocols.knn import neighbours

    def run(x, labels, y, y_labels, k):
        blocks = list(neighbours(x, y, k=k))
        index = np.concatenate([index for _, index in blocks])
        assert index.shape == (len(y), k)
        return _checks(np.concatenate([similarity for similarity, _ in blocks]))

    return run, _versions("jax")


def _ours_votes():
    from cssl_jax.evaluate.protocols.knn import knn as classify

    def run(x, labels, y, y_labels, k):
        ks = [k, *[other for other in KS if other < k]]
        return {"top1": classify(x, labels, y, y_labels, num_classes=CLASSES, k=ks)["top1"]}

    return run, _versions("jax")


def _faiss():
    import faiss

    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))

    def run(x, labels, y, y_labels, k):
        x, y = x.copy(), y.copy()
        faiss.normalize_L2(x)
        faiss.normalize_L2(y)
        index = faiss.IndexFlatIP(x.shape[1])
        index.add(x)
        similarity, _ = index.search(y, k)
        return _checks(similarity)

    return run, _versions("faiss-cpu")


def _sklearn():
    from sklearn.neighbors import NearestNeighbors

    def run(x, labels, y, y_labels, k):
        search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="cosine", n_jobs=-1)
        distance, _ = search.fit(x).kneighbors(y)
        return _checks(1 - distance)

    return run, _versions("scikit-learn")


def _sklearn_euclidean():
    """The order of unit vectors by distance is that by cosine, and scikit-learn is faster at it."""
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    def run(x, labels, y, y_labels, k):
        search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="euclidean", n_jobs=-1)
        distance, _ = search.fit(normalize(x)).kneighbors(normalize(y))
        return _checks(1 - distance**2 / 2)

    return run, _versions("scikit-learn")


_KNN = {
    "ours": _ours,
    "ours-votes": _ours_votes,
    "faiss": _faiss,
    "sklearn": _sklearn,
    "sklearn-euclidean": _sklearn_euclidean,
}

# ------------------------------------------------------------------------------------------ probe


def probe(
    contender: str,
    rows: int,
    tested: int,
    width: int,
    l2_values: list[float],
    tolerance: float,
    repeats: int,
) -> dict:
    """Logistic regression with every penalty, on standardised features.

    Returns:
        ``first_s`` and ``times_s`` as of ``knn``; a penalty's ``objectives`` (float64) and
        ``accuracies`` on the tested rows.
    """
    fit, versions = _PROBES[contender]()
    x, labels = draw(rows, width, 1)
    y, y_labels = draw(tested, width, 2)
    mean, std = x.mean(axis=0), x.std(axis=0)
    x, y = (x - mean) / std, (y - mean) / std
    process.reset_peak()
    weights, times = _timed(lambda: fit(x, labels, l2_values, tolerance), 1 + repeats)
    return {
        "objectives": [
            _objective(*pair, x, labels, l2) for pair, l2 in zip(weights, l2_values, strict=True)
        ],
        "accuracies": [
            float(np.mean(np.argmax(y @ kernel.T + bias, axis=1) == y_labels))
            for kernel, bias in weights
        ],
        "first_s": times[0],
        "times_s": times[1:],
        "peak_bytes": process.peak_bytes(),
        "versions": versions,
    }


def _objective(kernel: np.ndarray, bias: np.ndarray, x: np.ndarray, labels: np.ndarray, l2: float):
    scores = x @ kernel.T.astype(np.float64) + bias
    scores -= scores.max(axis=1, keepdims=True)
    total = np.log(np.exp(scores).sum(axis=1))
    losses = total - scores[np.arange(len(labels)), labels]
    return float(losses.mean() + 0.5 * l2 * np.sum(np.float64(kernel) ** 2))


def _ours_probe():
    from cssl_jax.evaluate.solvers.logistic import fit_all

    def fit(x, labels, l2_values, tolerance):
        kernels, biases = fit_all(
            x, labels, num_classes=CLASSES, l2_values=tuple(l2_values), precision=tolerance
        )
        return list(zip(kernels, biases, strict=True))

    return fit, _versions("jax")


def _sklearn_probe(warm: bool = False):
    from sklearn.linear_model import LogisticRegression

    def fit(x, labels, l2_values, tolerance):
        # The same objective: C is 1 / (l2 N). Falling penalties, for the warm start.
        found = {}
        limit = 10_000
        model = LogisticRegression(tol=tolerance, max_iter=limit, warm_start=warm)
        with warnings.catch_warnings():
            # float32 may leave its line search no way down before the tolerance is met: such a fit
            # counts, by its objective.
            warnings.simplefilter("ignore")
            for l2 in sorted(l2_values, reverse=True):
                model.set_params(C=1 / (l2 * len(x))).fit(x, labels)
                if model.n_iter_.max() >= limit:
                    raise RuntimeError(f"unfinished after {limit} iterations at l2 {l2:g}")
                found[l2] = model.coef_.copy(), model.intercept_.copy()
        return [found[l2] for l2 in l2_values]

    return fit, _versions("scikit-learn")


_PROBES = {
    "ours": _ours_probe,
    "sklearn": _sklearn_probe,
    "sklearn-warm": lambda: _sklearn_probe(warm=True),
}
