import numpy as np
import pytest
import sklearn.decomposition
import sklearn.neighbors

from cssl_jax.errors import UserError
from cssl_jax.report.figures import projections


def blobs(per=30, classes=4, width=20, seed=0):
    rng = np.random.default_rng(seed)
    centres = 4 * rng.normal(size=(classes, width))
    labels = np.repeat(np.arange(classes), per)
    return centres[labels] + rng.normal(size=(len(labels), width)), labels


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_pca_equals_scikit_learns_on_unit_rows_up_to_signs():
    x, _ = blobs()
    theirs = sklearn.decomposition.PCA(2).fit(unit(x))
    ours, fractions = projections.principal(x, 2)
    expected = theirs.transform(unit(x))
    expected *= np.sign(np.sum(expected * ours, axis=0))
    np.testing.assert_allclose(ours, expected, atol=1e-9)
    np.testing.assert_allclose(fractions, theirs.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_array_equal(
        projections.project(7 * x, "pca"), projections.project(7 * x, "pca")
    )


def test_features_of_one_dimension_lie_on_a_line():
    coordinates, fractions = projections.principal(np.array([[1.0], [-1.0], [1.0]]), 2)
    np.testing.assert_allclose(coordinates[:, 1], 0.0)
    np.testing.assert_allclose(fractions, [1.0, 0.0])


@pytest.mark.parametrize("with_opentsne", [True, False])
def test_tsne_keeps_groups_together_by_either_package(with_opentsne, monkeypatch):
    find = projections.importlib.util.find_spec
    if with_opentsne:
        pytest.importorskip("openTSNE")
    else:
        hidden = lambda name: None if name == "openTSNE" else find(name)  # noqa: E731
        monkeypatch.setattr(projections.importlib.util, "find_spec", hidden)
    x, labels = blobs()
    coordinates = projections.project(x, "tsne", seed=1)
    assert coordinates.shape == (120, 2)
    knn = sklearn.neighbors.KNeighborsClassifier(5).fit(coordinates, labels)
    assert knn.score(coordinates, labels) == 1.0
    np.testing.assert_allclose(projections.project(x, "tsne", seed=1), coordinates, atol=1e-6)


def test_a_map_of_collapsed_features_is_a_point():
    for kind in ("pca", "tsne"):
        np.testing.assert_allclose(projections.project(np.ones((9, 4)), kind), 0.0, atol=1e-12)


def test_few_rows_are_enough_for_tsne():
    x, _ = blobs(per=2, classes=3)
    assert np.isfinite(projections.project(x, "tsne")).all()


def test_invalid_features_and_missing_packages_are_refused(monkeypatch):
    x, _ = blobs()
    for wrong in (x[:4], np.full((9, 3), np.nan), x[0]):
        with pytest.raises(UserError, match="have no map"):
            projections.project(wrong, "pca")
    with pytest.raises(UserError, match="use pca, tsne, umap"):
        projections.project(x, "isomap")
    monkeypatch.setattr(projections.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "cssl-jax\[report\]"'):
        projections.project(x, "tsne")
    with pytest.raises(UserError, match="pip install umap-learn"):
        projections.project(x, "umap")
