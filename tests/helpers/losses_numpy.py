"""The losses' formulas in NumPy loops, written from the papers; complex input passes through."""

import numpy as np


def unit(z):
    return np.stack([row / np.sqrt(np.sum(row * row)) for row in z])


def rows_of(z1, z2):
    """Unit rows (z1, z2), and each one's positive."""
    n = len(z1)
    return np.concatenate([unit(z1), unit(z2)]), [(i + n) % (2 * n) for i in range(2 * n)]


def softplus(x):
    return np.log(1 + np.exp(x))


def two_view_loss(z1, z2, of_anchor):
    """Mean over all anchors of ``of_anchor(cosine of the positive, cosines of the negatives)``."""
    z, partner = rows_of(z1, z2)
    losses = []
    for i in range(len(z)):
        negatives = [np.sum(z[i] * z[k]) for k in range(len(z)) if k not in (i, partner[i])]
        losses.append(of_anchor(np.sum(z[i] * z[partner[i]]), np.array(negatives)))
    return sum(losses) / len(losses)


def nt_xent(z1, z2, temperature):
    def of_anchor(positive, negatives):
        total = np.exp(positive / temperature) + np.sum(np.exp(negatives / temperature))
        return np.log(total) - positive / temperature

    return two_view_loss(z1, z2, of_anchor)


def dcl(z1, z2, temperature, sigma=None):
    z, partner = rows_of(z1, z2)
    cosines = np.array([np.sum(z[i] * z[partner[i]]) for i in range(len(z) // 2)])
    losses = []
    for i in range(len(z)):
        negatives = [np.sum(z[i] * z[k]) for k in range(len(z)) if k not in (i, partner[i])]
        cosine = np.sum(z[i] * z[partner[i]])
        weight = 1.0
        if sigma:  # without gradient: of the real parts
            weight = 2 - np.exp(cosine.real / sigma) / np.mean(np.exp(cosines.real / sigma))
        logs = np.log(np.sum(np.exp(np.array(negatives) / temperature)))
        losses.append(-weight * cosine / temperature + logs)
    return sum(losses) / len(losses)


def hard_nt_xent(z1, z2, temperature, beta, tau_plus):
    def of_anchor(positive, negatives):
        count = len(negatives)
        positive, negatives = np.exp(positive / temperature), np.exp(negatives / temperature)
        importance = negatives**beta
        reweighted = np.sum(importance * negatives) / np.mean(importance)
        total = (reweighted - tau_plus * count * positive) / (1 - tau_plus)
        least = count * np.exp(-1 / temperature)
        total = total if total.real > least else least
        return -np.log(positive / (positive + total))

    return two_view_loss(z1, z2, of_anchor)


def nt_logistic(z1, z2, temperature):
    return two_view_loss(
        z1,
        z2,
        lambda positive, negatives: (
            softplus(-positive / temperature) + np.mean(softplus(negatives / temperature))
        ),
    )


def contrastive(z1, z2, margin):
    def of_anchor(positive, negatives):
        distances = [np.sqrt(2 - 2 * c) for c in negatives]
        hinges = [(margin - d) ** 2 / 2 if d.real < margin else 0.0 for d in distances]
        return (2 - 2 * positive) / 2 + np.mean(hinges)

    return two_view_loss(z1, z2, of_anchor)


def triplet(z1, z2, margin, mining):
    def of_anchor(positive, negatives):
        if mining == "hard":
            negatives = [max(negatives, key=lambda c: c.real)]
        if mining == "semi-hard":
            low, high = positive.real - margin, positive.real
            negatives = [c for c in negatives if low < c.real < high]
        hinges = [c - positive + margin for c in negatives]
        hinges = [h if h.real > 0 else 0.0 for h in hinges]
        return np.mean(hinges) if hinges else 0.0

    return two_view_loss(z1, z2, of_anchor)


def info_nce(queries, keys, temperature, queue=None, in_batch=True, drawn=None):
    """``drawn``: for each query, places of its negatives among (other keys in order, queue)."""
    queries, keys = unit(queries), unit(keys)
    more = [] if queue is None else list(unit(queue))
    losses = []
    for i, query in enumerate(queries):
        others = [k for j, k in enumerate(keys) if j != i] if in_batch else []
        negatives = others + more
        if drawn is not None:
            negatives = [negatives[place] for place in drawn[i]]
        logits = [np.sum(query * k) / temperature for k in [keys[i], *negatives]]
        losses.append(np.log(sum(np.exp(logit) for logit in logits)) - logits[0])
    return sum(losses) / len(losses)


def supervised_simcse(anchors, positives, negatives, temperature):
    """Gao et al. (2021), eq. 5: the sum runs over the positives and negatives of all anchors."""
    h, plus, minus = unit(anchors), unit(positives), unit(negatives)
    losses = []
    for i in range(len(h)):
        total = 0.0
        for j in range(len(h)):
            total += np.exp(np.sum(h[i] * plus[j]) / temperature)
            total += np.exp(np.sum(h[i] * minus[j]) / temperature)
        losses.append(-np.log(np.exp(np.sum(h[i] * plus[i]) / temperature) / total))
    return sum(losses) / len(losses)


def clip(first, second, temperature):
    return (info_nce(first, second, temperature) + info_nce(second, first, temperature)) / 2


def siglip(first, second, scale, bias):
    first, second = unit(first), unit(second)
    total = 0.0
    for i in range(len(first)):
        for j in range(len(second)):
            sign = 1 if i == j else -1
            total = total + softplus(-sign * (scale * np.sum(first[i] * second[j]) + bias))
    return total / len(first)


def sup_con(z, labels, temperature):
    """``z`` [n, v, d]; a negative label is a class of the example's own."""
    n, views, _ = z.shape
    rows = unit(z.reshape(n * views, -1))
    classes = [labels[i] if labels[i] >= 0 else -1 - i for i in range(n) for _ in range(views)]
    losses = []
    for i in range(len(rows)):
        logits = {k: np.sum(rows[i] * rows[k]) / temperature for k in range(len(rows)) if k != i}
        positives = [k for k in logits if classes[k] == classes[i]]
        total = np.log(sum(np.exp(logit) for logit in logits.values()))
        losses.append(sum(total - logits[k] for k in positives) / max(len(positives), 1))
    return sum(losses) / len(losses)


def gradient(function, *arrays):
    """Complex-step derivative: exact to rounding, with no step to choose."""
    gradients = []
    for which, array in enumerate(arrays):
        found = np.zeros(np.shape(array))
        for index in np.ndindex(found.shape):
            moved = [np.array(a, complex) for a in arrays]
            moved[which][index] += 1e-30j
            found[index] = np.imag(function(*moved)) / 1e-30
        gradients.append(found)
    return gradients
