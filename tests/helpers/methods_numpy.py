"""Objectives of methods in NumPy loops, written from the papers; complex input passes through.

Parts without gradient are read as real numbers, so that a complex step does not see them.
"""

import numpy as np

from helpers.losses_numpy import info_nce, unit


def correlation_loss(z1, z2, weight):
    """Barlow Twins, eq. 1, with the epsilon of the authors' BatchNorm."""

    def standardized(z):
        centred = z - sum(z) / len(z)
        return centred / np.sqrt(sum(centred**2) / len(z) + 1e-5)

    a, b = standardized(z1), standardized(z2)
    total = 0.0
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            entry = sum(a[n, i] * b[n, j] for n in range(len(a))) / len(a)
            total += (1 - entry) ** 2 if i == j else weight * entry**2
    return total


def vicreg(z1, z2, invariance, variance, covariance):
    """VICReg as in the authors' code: the mean square, half of each view's hinge, both sums."""
    rows, width = z1.shape
    total = invariance * np.sum((z1 - z2) ** 2) / (rows * width)
    for z in (z1, z2):
        centred = z - sum(z) / rows
        for i in range(width):
            std = np.sqrt(sum(centred[:, i] ** 2) / (rows - 1) + 1e-4)
            total += variance * (1 - std) / width / 2 if std.real < 1 else 0.0
            for j in range(width):
                if j != i:
                    entry = sum(centred[:, i] * centred[:, j]) / (rows - 1)
                    total += covariance * entry**2 / width
    return total


def sigreg(z, directions):
    """SIGReg by loops over directions and over the 17 frequencies of the authors' rule."""
    total = 0.0
    for direction in directions.T:
        x = z @ direction
        for knot in range(17):
            t = 3 * knot / 16
            gaussian = np.exp(-(t**2) / 2)
            real, imaginary = np.sum(np.cos(t * x)) / len(x), np.sum(np.sin(t * x)) / len(x)
            weight = 3 / 16 * (1 if knot in (0, 16) else 2) * gaussian
            total += weight * ((real - gaussian) ** 2 + imaginary**2)
    return len(z) * total / directions.shape[1]


def lejepa(views, weight, directions):
    """Mean squared distance of two views from their mean, and SIGReg of each view."""
    first, second = views[:, 0], views[:, 1]
    agreement = np.sum((first - second) ** 2) / first.size / 4
    regular = (sigreg(first, directions) + sigreg(second, directions)) / 2
    return (1 - weight) * agreement + weight * regular


def both_directions(predictions, targets, of_pair):
    """Sum over the directions and mean over the examples of ``of_pair(prediction, target)``."""
    total = 0.0
    for view in (0, 1):
        for p, z in zip(unit(predictions[:, view]), unit(targets[:, 1 - view].real), strict=True):
            total += of_pair(p, z) / len(predictions)
    return total


def byol(predictions, targets):
    return both_directions(predictions, targets, lambda p, z: sum((p - z) ** 2))


def simsiam(predictions, projections):
    return both_directions(predictions, projections, lambda p, z: -sum(p * z) / 2)


def moco_v3(predictions, keys, temperature):
    return sum(
        2 * temperature * info_nce(predictions[:, view], keys[:, 1 - view], temperature)
        for view in (0, 1)
    )


def moco_v2(queries, keys, queues, temperature):
    """``keys`` per direction: those of the other view."""
    losses = [
        info_nce(queries[:, i], keys[:, i], temperature, queue, in_batch=False)
        for i, queue in enumerate(queues)
    ]
    return sum(losses) / len(losses)


def nnclr(projections, predictions, support, temperature):
    total = 0.0
    for view in (0, 1):
        z, p = unit(projections[:, view].real), unit(predictions[:, 1 - view])
        for i, row in enumerate(z):
            nearest = max(support, key=lambda candidate, row=row: candidate @ row)
            logits = [sum(nearest * prediction) / temperature for prediction in p]
            total += (np.log(sum(np.exp(logit) for logit in logits)) - logits[i]) / (2 * len(z))
    return total


def swav(projections, prototypes, temperature, epsilon, iterations, queues=None):
    """Eq. 2 over all pairs of an assigned view, the first two, and another one that predicts.

    Assignments are scalings of exp(scores / epsilon) that sum over the whole batch and the queue.
    """
    rows, views = projections.shape[:2]
    scores = [unit(projections[:, view]) @ prototypes.T for view in range(views)]
    assignments = []
    for view in (0, 1):
        queued = np.zeros((0, len(prototypes))) if queues is None else queues[view] @ prototypes.T
        weights = np.exp(np.concatenate([scores[view].real, queued]) / epsilon)
        for _ in range(iterations):
            weights = weights / np.array([sum(column) for column in weights.T])
            weights = np.stack([row / sum(row) for row in weights])
        assignments.append(weights[:rows])
    return _cross_entropy_of_pairs(assignments, scores, temperature)


def dino(projections, targets, prototypes, copies, centre, temperature, target_temperature):
    """Eq. 1 to 3: softmax of the teacher's centred scores, predicted from all other views."""
    scores = [unit(projections[:, view]) @ prototypes.T for view in range(projections.shape[1])]
    distributions = []
    for view in (0, 1):
        weights = np.exp((unit(targets[:, view]) @ copies.T - centre) / target_temperature)
        distributions.append(np.stack([row / sum(row) for row in weights]))
    return _cross_entropy_of_pairs(distributions, scores, temperature)


def _cross_entropy_of_pairs(distributions, scores, temperature):
    """Mean cross entropy over the pairs of a distribution's view and another view's scores."""
    rows = len(scores[0])
    total, pairs = 0.0, 0
    for i, distribution in enumerate(distributions):
        for v, score in enumerate(scores):
            if v == i:
                continue
            pairs += 1
            for n in range(rows):
                logits = score[n] / temperature
                logs = logits - np.log(sum(np.exp(logits)))
                total -= sum(distribution[n] * logs) / rows
    return total / pairs
