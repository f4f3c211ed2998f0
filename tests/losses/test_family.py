"""Every loss against its formula in NumPy loops: whole and tiled, on one device and on several."""

import doctest
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cssl_jax import losses
from cssl_jax.data import sampler
from cssl_jax.errors import UserError
from cssl_jax.losses.core import online_softmax, similarity
from cssl_jax.losses.core.online_softmax import tile_pair
from cssl_jax.losses.infonce import query_contrast
from cssl_jax.runtime import spmd
from helpers import losses_numpy
from tests.helpers.marks import slow

N, D = 8, 5
RNG = np.random.default_rng(0)
Z1, Z2 = RNG.normal(size=(2, N, D))
Z2 = Z2 + 0.7 * Z1  # so that positives are nearer than most negatives
QUEUE = RNG.normal(size=(7, D))
LABELS = np.array([0, 1, -1, 0, 2, 1, -1, 0])
KEYS = sampler.example_key(3, 0, np.arange(N))
DRAWN = 5


def drawn():
    """Negatives of each query: the first entries of its seeded permutation, computed in NumPy."""
    seeds = sampler.mix(sampler.mix(KEYS[:, 0]) ^ KEYS[:, 1])
    return [sampler.permute(np.arange(DRAWN), seed, N - 1 + len(QUEUE)) for seed in seeds]


def hard(a, b, xp):
    """A hard negative of every row."""
    return xp.roll(a, 1, axis=1) - 0.5 * b


def stacked(z1, z2):
    return np.stack([z1, z2], axis=1)


# name -> (JAX: (z1, z2, indices of the rows, options) -> local loss, NumPy: (z1, z2) -> loss)
LOSSES = {
    "nt_xent": (
        lambda a, b, rows, **how: losses.nt_xent(a, b, temperature=0.2, **how),
        lambda a, b: losses_numpy.nt_xent(a, b, 0.2),
    ),
    "dcl": (
        lambda a, b, rows, **how: losses.dcl(a, b, temperature=0.2, **how),
        lambda a, b: losses_numpy.dcl(a, b, 0.2),
    ),
    "dcl-w": (
        lambda a, b, rows, **how: losses.dcl(a, b, temperature=0.2, sigma=0.5, **how),
        lambda a, b: losses_numpy.dcl(a, b, 0.2, 0.5),
    ),
    "hard": (
        lambda a, b, rows, **how: losses.hard_nt_xent(a, b, temperature=0.5, beta=1.5, **how),
        lambda a, b: losses_numpy.hard_nt_xent(a, b, 0.5, 1.5, 0.1),
    ),
    "debiased": (  # tau_plus is so large that some anchors reach the lower bound of G
        lambda a, b, rows, **how: losses.hard_nt_xent(
            a, b, temperature=0.5, beta=0.0, tau_plus=0.3, **how
        ),
        lambda a, b: losses_numpy.hard_nt_xent(a, b, 0.5, 0.0, 0.3),
    ),
    "nt_logistic": (
        lambda a, b, rows, **how: losses.nt_logistic(a, b, temperature=0.3, **how),
        lambda a, b: losses_numpy.nt_logistic(a, b, 0.3),
    ),
    "contrastive": (
        lambda a, b, rows, **how: losses.contrastive(a, b, margin=1.2, **how),
        lambda a, b: losses_numpy.contrastive(a, b, 1.2),
    ),
    "info_nce": (
        lambda a, b, rows, **how: losses.info_nce(a, b, temperature=0.2, **how),
        lambda a, b: losses_numpy.info_nce(a, b, 0.2),
    ),
    "info_nce and a queue": (
        lambda a, b, rows, **how: losses.info_nce(a, b, temperature=0.2, queue=QUEUE, **how),
        lambda a, b: losses_numpy.info_nce(a, b, 0.2, QUEUE),
    ),
    "moco": (
        lambda a, b, rows, **how: losses.info_nce(
            a, b, temperature=0.2, queue=QUEUE, in_batch=False, **how
        ),
        lambda a, b: losses_numpy.info_nce(a, b, 0.2, QUEUE, in_batch=False),
    ),
    "info_nce and hard negatives": (  # which depend on both inputs, and so have a gradient
        lambda a, b, rows, **how: losses.info_nce(
            a, b, temperature=0.2, hard_negatives=hard(a, b, jnp), **how
        ),
        lambda a, b: losses_numpy.supervised_simcse(a, b, hard(a, b, np), 0.2),
    ),
    "drawn negatives": (
        lambda a, b, rows, **how: losses.info_nce(
            a,
            b,
            temperature=0.2,
            queue=QUEUE,
            num_negatives=DRAWN,
            example_keys=jnp.asarray(KEYS)[rows],
            **how,
        ),
        lambda a, b: losses_numpy.info_nce(a, b, 0.2, QUEUE, drawn=drawn()),
    ),
    "clip": (
        lambda a, b, rows, **how: losses.clip(a, b, temperature=0.2, **how),
        lambda a, b: losses_numpy.clip(a, b, 0.2),
    ),
    "siglip": (
        lambda a, b, rows, **how: losses.siglip(a, b, scale=5.0, bias=-2.0, **how),
        lambda a, b: losses_numpy.siglip(a, b, 5.0, -2.0),
    ),
    "sup_con": (
        lambda a, b, rows, **how: losses.sup_con(
            jnp.stack([a, b], axis=1), jnp.asarray(LABELS)[rows], temperature=0.2, **how
        ),
        lambda a, b: losses_numpy.sup_con(stacked(a, b), LABELS, 0.2),
    ),
}
WHOLE_ONLY = {
    f"triplet, {mining}": (
        lambda a, b, rows, mining=mining, tile_size=None, **how: losses.triplet(
            a, b, margin=0.4, mining=mining, **how
        ),
        lambda a, b, mining=mining: losses_numpy.triplet(a, b, 0.4, mining),
    )
    for mining in ("all", "semi-hard", "hard")
}
ALL = {**LOSSES, **WHOLE_ONLY}


@functools.cache
def expected(name):
    """(loss, gradients) by NumPy loops."""
    loop = ALL[name][1]
    return loop(Z1, Z2), losses_numpy.gradient(loop, Z1, Z2)


@functools.cache
def program(devices, tile):
    """Program of all losses and their gradients, compiled for float64."""
    members = {**LOSSES, **WHOLE_ONLY} if tile is None else LOSSES
    mesh = spmd.make_mesh(jax.devices()[:devices])

    def local(z1, z2):
        n = N // devices
        rows = jax.lax.axis_index("data") * n + jnp.arange(n)
        results = {}
        for name, (ours, _) in members.items():
            loss, grads = jax.value_and_grad(
                lambda a, b, ours=ours: ours(a, b, rows, axis_name="data", tile_size=tile),
                argnums=(0, 1),
            )(z1, z2)
            results[name] = (jax.lax.pmean(loss, "data"), tuple(g / devices for g in grads))
        return results

    specs = {name: (P(), (P("data"), P("data"))) for name in members}
    step = jax.shard_map(
        local, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=specs, check_vma=False
    )
    with jax.enable_x64(True):
        return jax.jit(step).lower(Z1, Z2).compile()


@functools.cache
def computed(devices, tile):
    """(loss, gradients) per loss."""
    with jax.enable_x64(True):
        return jax.device_get(program(devices, tile)(Z1, Z2))


@pytest.mark.parametrize(
    ("devices", "tile"),
    [
        *[slow(1, None), (8, 7), slow(8, None), slow(1, 3)],
        *[slow(1, 16), slow(2, 5), slow(4, 3)],
    ],  # most tile sizes do not divide the rows
)
@pytest.mark.parametrize("name", ALL)
def test_value_and_gradient_are_those_of_the_float64_loops(name, devices, tile):
    if tile is not None and name in WHOLE_ONLY:
        pytest.skip("the loss has no tiled form")
    loss, grads = computed(devices, tile)[name]
    reference, reference_grads = expected(name)
    # Both sides are float64. Only the order of a few hundred additions differs.
    assert loss == pytest.approx(reference, rel=1e-11)
    for ours, theirs in zip(grads, reference_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11 * np.abs(theirs).max())


def host_stops(compiled):
    """(number of loops, instructions at which an accelerator waits for the host) of a program."""
    lines = compiled.as_text().splitlines()
    loops = [line for line in lines if " while(" in line]
    unknown = [line for line in loops if "known_trip_count" not in line]
    return len(loops), unknown + [line for line in lines if " conditional(" in line]


@pytest.mark.parametrize(("devices", "tile"), [(1, None), (8, 7), slow(8, None), slow(1, 3)])
def test_no_loss_makes_an_accelerator_wait_for_the_host(devices, tile):
    count, stops = host_stops(program(devices, tile))
    assert stops == []
    # XLA inlines loops of one iteration, so not every loss has one forward and one backward.
    assert tile is None or count > len(LOSSES)


def test_the_check_finds_loops_of_unknown_length_and_conditionals():
    def triangle(x, start):
        """Loop over tiles with a traced bound and a traced branch, which the check must detect."""

        def one(j, y):
            return jax.lax.cond(j == start, lambda y: y, lambda y: jnp.sin(y) @ x, y)

        return jax.lax.fori_loop(start, 5, one, x)

    compiled = jax.jit(triangle).lower(jnp.ones((4, 4)), jnp.int32(1)).compile()
    count, stops = host_stops(compiled)
    assert count == 1
    assert [kind for line in stops for kind in ("while", "conditional") if f" {kind}(" in line] == [
        "while",
        "conditional",
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 10])
def test_tile_pairs_are_all_unordered_pairs_of_different_tiles_once(count):
    total = count * (count - 1) // 2
    pairs = [tile_pair(jnp.int32(k), count) for k in range(total)]
    unordered = sorted(tuple(sorted((int(i), int(j)))) for i, j in pairs)
    assert unordered == list(itertools.combinations(range(count), 2))


@pytest.mark.parametrize("module", [online_softmax, similarity])
def test_examples_in_docstrings_hold(module):
    failed, attempted = doctest.testmod(module)
    assert (failed, attempted > 0) == (0, True)


@pytest.mark.parametrize("tile", [None, 3])
@pytest.mark.parametrize(
    ("ours", "loop", "at"),
    [
        (lambda t, tile: losses.nt_xent(Z1, Z2, temperature=t, tile_size=tile),
         lambda t: losses_numpy.nt_xent(Z1, Z2, t), 0.3),
        (lambda t, tile: losses.dcl(Z1, Z2, temperature=t, sigma=0.5, tile_size=tile),
         lambda t: losses_numpy.dcl(Z1, Z2, t, 0.5), 0.3),
        (lambda t, tile: losses.clip(Z1, Z2, temperature=t, tile_size=tile),
         lambda t: losses_numpy.clip(Z1, Z2, t), 0.3),
        (lambda s, tile: losses.siglip(Z1, Z2, scale=s, bias=s - 5, tile_size=tile),
         lambda s: losses_numpy.siglip(Z1, Z2, s, s - 5), 3.0),
        (lambda b, tile: losses.hard_nt_xent(Z1, Z2, beta=b, tile_size=tile),
         lambda b: losses_numpy.hard_nt_xent(Z1, Z2, 0.5, b, 0.1), 0.8),
        (lambda m, tile: losses.contrastive(Z1, Z2, margin=m, tile_size=tile),
         lambda m: losses_numpy.contrastive(Z1, Z2, m), 1.2),
    ],
    ids=["nt_xent", "dcl-w", "clip", "siglip", "beta", "margin"],
)  # fmt: skip
def test_gradients_of_scalar_hyperparameters(ours, loop, at, tile):
    with jax.enable_x64(True):
        value, slope = jax.jit(jax.value_and_grad(lambda x: ours(x, tile)))(at)
    assert float(value) == pytest.approx(loop(at), rel=1e-11)
    assert float(slope) == pytest.approx(np.imag(loop(at + 1e-30j)) / 1e-30, rel=1e-10)


@pytest.mark.parametrize("tile", [slow(None), 4])
@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_rows_give_a_float32_loss_and_bfloat16_gradients(name, tile):
    ours, loop = LOSSES[name]
    z1, z2 = (jnp.asarray(z, jnp.bfloat16) for z in (Z1, Z2))
    loss, grad = jax.jit(jax.value_and_grad(lambda a: ours(a, z2, jnp.arange(N), tile_size=tile)))(
        z1
    )
    assert loss.dtype == jnp.float32
    assert grad.dtype == jnp.bfloat16
    exact = loop(np.asarray(z1, np.float64), np.asarray(z2, np.float64))
    # Only inputs are rounded to bfloat16; a few float32 roundings of numbers up to 10 remain.
    assert float(loss) == pytest.approx(exact, rel=1e-5, abs=1e-5)
    assert np.isfinite(np.asarray(grad, np.float32)).all()


@functools.cache
def in_float32(tile):
    """Compiled function (z1, z2) -> {name: (loss, gradients)} of all losses on one device."""

    def all_losses(z1, z2):
        return {
            name: jax.value_and_grad(
                lambda a, b, ours=ours: ours(a, b, jnp.arange(N), tile_size=tile), argnums=(0, 1)
            )(z1, z2)
            for name, (ours, _) in LOSSES.items()
        }

    return jax.jit(all_losses)


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, 4])
@pytest.mark.parametrize("magnitude", [1e-30, 1e30])
def test_losses_are_invariant_to_extreme_norms(magnitude, tile):
    z1, z2 = Z1.astype(np.float32), Z2.astype(np.float32)
    scaled = in_float32(tile)(z1 * np.float32(magnitude), z2 * np.float32(magnitude))
    for name, (loss, grads) in in_float32(tile)(z1, z2).items():
        other_loss, other_grads = scaled[name]
        assert float(other_loss) == pytest.approx(float(loss), rel=1e-5, abs=1e-5), name
        for ours, theirs in zip(other_grads, grads, strict=True):
            ours = np.asarray(ours, np.float64) * magnitude
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, 4])
def test_zero_vectors_and_duplicates_stay_finite(tile):
    z1, z2 = Z1.astype(np.float32), Z2.astype(np.float32)
    z1[0], z2[2], z1[3], z1[5] = 0.0, 0.0, z2[3], z1[4]
    for name, results in in_float32(tile)(z1, z2).items():
        chex.assert_tree_all_finite(results, custom_message=name)


@pytest.mark.parametrize("tile", [None, 4])
def test_a_temperature_of_a_hundredth(tile):
    z1, z2 = Z1.astype(np.float32), Z2.astype(np.float32)
    how = {"temperature": 0.01, "tile_size": tile}

    @jax.jit
    def computed(a, b):
        return {
            "dcl": losses.dcl(a, b, **how),
            "hard": losses.hard_nt_xent(a, b, **how),
            "info_nce": losses.info_nce(a, b, **how),
            "sup_con": losses.sup_con(jnp.stack([a, b], axis=1), jnp.asarray(LABELS), **how),
        }

    loops = {
        "dcl": losses_numpy.dcl(Z1, Z2, 0.01),
        "hard": losses_numpy.hard_nt_xent(Z1, Z2, 0.01, 1.0, 0.1),
        "info_nce": losses_numpy.info_nce(Z1, Z2, 0.01),
        "sup_con": losses_numpy.sup_con(stacked(Z1, Z2), LABELS, 0.01),
    }
    ours = computed(z1, z2)
    for name, expected in loops.items():
        # Similarities have an error of 1e-7, and logits up to 100 an error of 1e-5.
        assert float(ours[name]) == pytest.approx(expected, rel=1e-5, abs=1e-4), name


def test_sup_con_with_three_views_and_singleton_classes():
    z, labels = np.random.default_rng(4).normal(size=(5, 3, 4)), np.array([2, 0, 2, -1, 1])
    sup_con = jax.jit(losses.sup_con, static_argnames=("tile_size",))
    for views in (1, 3):
        reference = losses_numpy.sup_con(z[:, :views], labels, 0.3)
        with jax.enable_x64(True):
            for tile in (None, 4):
                loss = sup_con(z[:, :views], labels, temperature=0.3, tile_size=tile)
                assert float(loss) == pytest.approx(reference, rel=1e-12)


def test_without_labels_and_with_two_views_sup_con_is_nt_xent():
    with jax.enable_x64(True):
        alone = jax.jit(losses.sup_con)(stacked(Z1, Z2), np.full(N, -1))
        assert float(alone) == pytest.approx(losses_numpy.nt_xent(Z1, Z2, 0.1), rel=1e-12)


def test_hard_nt_xent_without_concentration_and_debiasing_is_nt_xent():
    with jax.enable_x64(True):
        plain = losses.hard_nt_xent(Z1, Z2, temperature=0.2, beta=0.0, tau_plus=0.0)
    assert float(plain) == pytest.approx(losses_numpy.nt_xent(Z1, Z2, 0.2), rel=1e-12)


def test_drawing_all_negatives_gives_the_full_loss():
    with jax.enable_x64(True):
        draw_all = functools.partial(losses.info_nce, num_negatives=N - 1, tile_size=3)
        all_drawn = jax.jit(draw_all)(Z1, Z2, example_keys=jnp.asarray(KEYS))
    assert float(all_drawn) == pytest.approx(losses_numpy.info_nce(Z1, Z2, 0.1), rel=1e-12)


def test_draws_differ_between_queries_and_repeat_with_their_keys():
    draws = np.array(drawn())
    assert len({tuple(sorted(row)) for row in draws.tolist()}) > 1
    assert all(len(set(row)) == DRAWN for row in draws.tolist())


def test_query_statistics_are_identical_whole_and_tiled():
    whole, tiled = (
        query_contrast(Z1, Z2, temperature=0.2, queue=QUEUE, tile_size=tile) for tile in (None, 3)
    )
    logits = (
        losses_numpy.unit(Z1)
        @ np.concatenate([losses_numpy.unit(Z2), losses_numpy.unit(QUEUE)]).T
        / 0.2
    )
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(whole.expected, (probabilities * logits).sum(axis=1), rtol=1e-5)
    negatives = np.where(np.eye(N, N + len(QUEUE), dtype=bool), -np.inf, logits)
    np.testing.assert_allclose(whole.hardest_negative, negatives.max(axis=1), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, tiled)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.info_nce(Z1, Z2, in_batch=False), "leaves no negatives; give a queue"),
        (lambda: losses.info_nce(Z1, Z2, num_negatives=8, example_keys=KEYS), "from 1 to 7"),
        (
            lambda: losses.info_nce(Z1, Z2, num_negatives=3),
            "num_negatives needs example_keys, which are None",
        ),
        (lambda: losses.dcl(Z1[:1], Z2[:1]), "one pair has no negative"),
        (lambda: losses.hard_nt_xent(Z1[:1], Z2[:1]), "one pair has no negative"),
        (lambda: losses.hard_nt_xent(Z1, Z2, tau_plus=1.0), "tau_plus is 1.0"),
        (lambda: losses.hard_nt_xent(Z1, Z2, beta=-1.0), "beta is -1.0"),
        (lambda: losses.sup_con(Z1, LABELS), r"z is \(8, 5\) and labels \(8,\)"),
        (lambda: losses.siglip(Z1, Z2, scale=0.0), "scale is 0.0"),
        (lambda: losses.contrastive(Z1, Z2, margin=-1.0), "margin is -1.0"),
        (lambda: losses.triplet(Z1, Z2, mining="soft"), "'soft' is unknown; use one of all, semi"),
        (lambda: losses.clip(Z1, Z2[:4]), r"\(8, 5\) and \(4, 5\)"),
        (lambda: losses.siglip(Z1, Z2, tile_size=0), "tile_size is 0; give None"),
    ],
)
def test_invalid_arguments_are_rejected_with_a_remedy(call, message):
    with pytest.raises(UserError, match=message):
        call()
