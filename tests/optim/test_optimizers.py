"""Optimizers: agreement with formulas in NumPy."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cssl_jax.errors import UserError
from cssl_jax.optim import exclusions, optimizers, schedules, trust_ratio
from cssl_jax.optim.registry import OPTIMIZERS, OptimizerOptions, optimizer_entry
from tests.helpers.marks import slow

# NumPy and XLA compute the same float64 formula and differ in the order of additions only.
EXACT = {"rtol": 1e-12, "atol": 1e-15}
SHAPES = {
    "encoder/conv_init/kernel": (3, 3, 3, 4),
    "encoder/bn_init/scale": (4,),
    "encoder/bn_init/bias": (4,),
    "encoder/block0/conv/kernel": (1, 1, 4, 4),
    "encoder/block0/norm/scale": (4,),
    "encoder/block0/norm/bias": (4,),
    "projector/dense/kernel": (4, 3),
    "projector/dense/bias": (3,),
}
KERNELS = {name for name in SHAPES if name.endswith("/kernel")}
PEAK, WARMUP, TOTAL = 0.5, 2, 6
RATES = [0.0, 0.25] + [0.25 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def make(name, schedule, **options):
    return optimizers.make_optimizer(name, schedule, OptimizerOptions(**options))


def nest(flat):
    tree = {}
    for name, value in flat.items():
        node = tree
        *parents, last = name.split("/")
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def train(optimizer, params, gradients):
    """Apply the gradients one by one; return the flat parameters after each update."""
    names = list(params)
    tree = nest({name: jnp.asarray(value) for name, value in params.items()})
    state = optimizer.init(tree)

    @jax.jit
    def step(tree, state, gradient):
        updates, state = optimizer.update(gradient, state, tree)
        return optax.apply_updates(tree, updates), state

    history = []
    for gradient in gradients:
        tree, state = step(tree, state, nest(gradient))
        flat = {
            jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        }
        history.append({name: flat[name] for name in names})
    return history


def by_hand(rule, params, gradients, decayed=KERNELS, weight_decay=0.1):
    """Run ``rule(w, g, wd, rate, memory, is_decayed) -> update`` on every tensor separately."""
    params = {name: value.copy() for name, value in params.items()}
    memory = {name: {} for name in params}
    history = []
    for gradient, rate in zip(gradients, RATES, strict=False):
        for name, w in params.items():
            wd = weight_decay if name in decayed else 0.0
            params[name] = w - rule(w, gradient[name], wd, rate, memory[name], name in decayed)
        history.append(dict(params))
    return history


def assert_same(actual, expected):
    for after, wanted in zip(actual, expected, strict=True):
        for name, value in wanted.items():
            assert after[name].dtype == np.float64
            np.testing.assert_allclose(after[name], value, **EXACT, err_msg=name)


def lars_rule(nesterov=False, eta=0.001, momentum=0.9, eps=0.0):
    def rule(w, g, wd, rate, memory, adapted):
        u = g + wd * w
        w_norm, u_norm = np.sqrt(np.sum(w**2)), np.sqrt(np.sum(u**2))
        trust = eta * w_norm / (u_norm + eps) if adapted and w_norm > 0 and u_norm > 0 else 1.0
        memory["v"] = momentum * memory.get("v", 0.0) + rate * trust * u
        return momentum * memory["v"] + rate * trust * u if nesterov else memory["v"]

    return rule


def sgd_rule(nesterov=False, momentum=0.9):
    def rule(w, g, wd, rate, memory, _):
        u = g + wd * w
        memory["v"] = momentum * memory.get("v", 0.0) + u
        return rate * (u + momentum * memory["v"] if nesterov else memory["v"])

    return rule


def adam_rule(decoupled, b1=0.8, b2=0.95, eps=1e-3):
    def rule(w, g, wd, rate, memory, _):
        g = g if decoupled else g + wd * w
        t = memory["t"] = memory.get("t", 0) + 1
        m = memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
        v = memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g**2
        step = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        return rate * (step + wd * w if decoupled else step)

    return rule


def schedule():
    return schedules.make_schedule("cosine", PEAK, WARMUP, TOTAL)


GRADIENTS = [draw(seed) for seed in range(1, 6)]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("eta", [0.001, 0.02])
def test_lars_follows_the_published_formula_over_several_steps(float64, nesterov, eta):
    optimizer = make("lars", schedule(), weight_decay=0.1, nesterov=nesterov, trust_coefficient=eta)
    expected = by_hand(lars_rule(nesterov, eta), draw(0), GRADIENTS)
    assert_same(train(optimizer, draw(0), GRADIENTS), expected)


def test_lars_has_a_trust_of_one_where_a_norm_is_zero(float64):
    params, gradients = draw(0), [dict(g) for g in GRADIENTS]
    params["projector/dense/kernel"][:] = 0.0
    for gradient in gradients[2:4]:  # without decay, the norm of the update is then 0
        gradient["encoder/conv_init/kernel"] = np.zeros((3, 3, 3, 4))
    optimizer = make("lars", schedule())
    actual = train(optimizer, params, gradients)
    assert_same(actual, by_hand(lars_rule(), params, gradients, weight_decay=0.0))
    # The first two rates are 0 and 0.25, so the first change is a plain gradient step.
    moved = -0.25 * gradients[1]["projector/dense/kernel"]
    np.testing.assert_allclose(actual[1]["projector/dense/kernel"], moved, **EXACT)


def test_lars_moves_a_zero_initialised_scale(float64):
    params = draw(0)
    params["encoder/block0/norm/scale"][:] = 0.0
    optimizer = make("lars", lambda _: 0.5, weight_decay=0.1)
    after = train(optimizer, params, GRADIENTS[:1])[0]["encoder/block0/norm/scale"]
    np.testing.assert_allclose(after, -0.5 * GRADIENTS[0]["encoder/block0/norm/scale"], **EXACT)


def test_lars_adapts_every_parameter_when_nothing_is_excluded(float64):
    optimizer = make("lars", schedule(), weight_decay=0.1, exclude_norm_and_bias=False)
    expected = by_hand(lars_rule(), draw(0), GRADIENTS, decayed=set(SHAPES))
    assert_same(train(optimizer, draw(0), GRADIENTS), expected)


def test_lars_is_invariant_to_the_scale_of_the_loss(float64):
    """Doubling the loss leaves kernel updates unchanged and doubles updates of unadapted biases."""
    optimizer = make("lars", lambda _: 0.5)
    doubled = [{name: 2 * g for name, g in GRADIENTS[0].items()}]
    once = train(optimizer, draw(0), GRADIENTS[:1])[0]
    twice = train(optimizer, draw(0), doubled)[0]
    for name, before in draw(0).items():
        factor = 1 if name in KERNELS else 2
        # Parameters near 1 move by 1e-3 with a rounding error of 1e-16.
        np.testing.assert_allclose(twice[name] - before, factor * (once[name] - before), rtol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_adds_decay_to_the_gradient_before_momentum(float64, nesterov):
    optimizer = make("sgd", schedule(), weight_decay=0.1, momentum=0.8, nesterov=nesterov)
    expected = by_hand(sgd_rule(nesterov, 0.8), draw(0), GRADIENTS)
    assert_same(train(optimizer, draw(0), GRADIENTS), expected)


def test_sgd_without_momentum_is_gradient_descent(float64):
    optimizer = make("sgd", lambda _: 0.5, momentum=0.0)
    after = train(optimizer, draw(0), GRADIENTS[:2])
    total = {n: GRADIENTS[0][n] + GRADIENTS[1][n] for n in SHAPES}
    expected = {name: w - 0.5 * total[name] for name, w in draw(0).items()}
    assert_same(after[1:], [expected])


@pytest.mark.parametrize(("name", "decoupled"), [("adam", False), ("adamw", True)])
@pytest.mark.parametrize("exclude", [True, False])
def test_adam_adds_decay_to_the_gradient_and_adamw_to_the_update(float64, name, decoupled, exclude):
    optimizer = make(
        name,
        schedule(),
        weight_decay=0.1,
        b1=0.8,
        b2=0.95,
        eps=1e-3,
        exclude_norm_and_bias=exclude,
    )
    decayed = KERNELS if exclude else set(SHAPES)
    expected = by_hand(adam_rule(decoupled), draw(0), GRADIENTS, decayed)
    assert_same(train(optimizer, draw(0), GRADIENTS), expected)


def test_clipping_bounds_the_global_gradient_norm_before_decay(float64):
    params = {"a/kernel": np.array([[2.0]]), "b/bias": np.array([3.0])}
    gradients = [{"a/kernel": np.array([[3.0]]), "b/bias": np.array([4.0])}]  # norm 5
    optimizer = make("sgd", lambda _: 1.0, momentum=0.0, weight_decay=0.5, clip_norm=1.0)
    # Expected values: 2 - (3/5 + 0.5 * 2) and 3 - 4/5.
    expected = {"a/kernel": np.array([[0.4]]), "b/bias": np.array([2.2])}
    assert_same(train(optimizer, params, gradients), [expected])


def test_clipping_does_not_change_a_small_gradient(float64):
    clipped = make("sgd", schedule(), clip_norm=1e3)
    plain = make("sgd", schedule())
    assert_same(train(clipped, draw(0), GRADIENTS), train(plain, draw(0), GRADIENTS))


@pytest.mark.parametrize("name", ["lars", "sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("parameter_dtype", "state_dtype"),
    [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_state_is_float32_or_wider_and_preserves_dtypes(
    float64, name, parameter_dtype, state_dtype
):
    params = nest({k: jnp.asarray(v, parameter_dtype) for k, v in draw(0).items()})
    optimizer = make(name, schedule(), weight_decay=0.1, clip_norm=1.0)
    before = jax.eval_shape(optimizer.init, params)
    updates, after = jax.eval_shape(optimizer.update, params, before, params)
    types = [leaf.dtype for leaf in jax.tree.leaves(before)]
    assert [leaf.dtype for leaf in jax.tree.leaves(after)] == types
    assert {str(t) for t in types if jnp.issubdtype(t, jnp.floating)} == {state_dtype}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(updates)} == {state_dtype}
    moved = jax.eval_shape(optax.apply_updates, params, updates)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(moved)} == {parameter_dtype}


def test_an_optimizer_works_inside_an_outer_mask(float64):
    """Masks are computed from the tree that arrives, including masked-out nodes."""

    def only_projector(tree):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == "projector", tree)

    inner = make("lars", schedule(), weight_decay=0.1)
    actual = train(optax.masked(inner, only_projector), draw(0), GRADIENTS)
    part = {name: value for name, value in draw(0).items() if name.startswith("projector")}
    expected = by_hand(lars_rule(), part, GRADIENTS)
    assert_same([{name: after[name] for name in part} for after in actual], expected)


def test_an_unknown_name_is_rejected_with_the_choices():
    with pytest.raises(UserError, match="'LARS'; there are lars, sgd, adam, adamw"):
        make("LARS", schedule())


def test_harmful_and_ineffective_options_are_rejected():
    with pytest.raises(UserError, match="use None for no clipping"):
        make("sgd", schedule(), clip_norm=0.0)
    with pytest.raises(UserError, match='nesterov=True has no effect in "adam"'):
        make("adam", schedule(), nesterov=True)


def unbalanced_parameters():
    """Parameters for which clipped LARS limits some tensors and not others."""
    params = draw(0)
    params["projector/dense/kernel"] *= 300
    return params


def solo_learn(params, gradients, rate, *, eta, eps, momentum=0.9):
    """LARS of solo-learn 9187ea3, solo/utils/lars.py, with clip_lr and exclude_bias_n_norm.

    The gradient is scaled by min(eta |w| / (|g| + eps) / lr, 1), then passed to torch's SGD, whose
    momentum buffer does not contain the learning rate. There is no weight decay, because their
    denominator |g| + wd |w| equals that of this package for wd = 0 only.
    """
    params = {name: value.copy() for name, value in params.items()}
    buffers, history = {}, []
    for gradient in gradients:
        for name, w in params.items():
            step = gradient[name].copy()
            if w.ndim != 1:
                local = eta * np.sqrt(np.sum(w**2)) / (np.sqrt(np.sum(step**2)) + eps)
                step *= min(local / rate, 1.0)
            buffers[name] = momentum * buffers[name] + step if name in buffers else step
            params[name] = w - rate * buffers[name]
        history.append(dict(params))
    return history


@pytest.mark.parametrize("eps", [0.0, 1e-8, 0.5])  # 0.5 matters next to norms of about 3 to 10
def test_clipped_lars_matches_solo_learn_at_a_constant_rate(float64, eps):
    """At a constant rate, momentum before and after the rate gives the same result."""
    optimizer = make("lars", lambda _: 0.5, trust_coefficient=0.02, trust_clip=True, trust_eps=eps)
    actual = train(optimizer, unbalanced_parameters(), GRADIENTS)
    assert_same(actual, solo_learn(unbalanced_parameters(), GRADIENTS, 0.5, eta=0.02, eps=eps))


def test_clipped_lars_has_the_rate_in_the_buffer_and_decay_in_the_norm(float64):
    """With a schedule and decay it is LARS with the trust replaced by min(trust / lr, 1)."""

    def rule(w, g, wd, rate, memory, adapted):
        u = g + wd * w
        if adapted and rate > 0:
            u = u * min(0.02 * np.linalg.norm(w) / (np.linalg.norm(u) + 0.5) / rate, 1.0)
        memory["v"] = 0.9 * memory.get("v", 0.0) + rate * u
        return memory["v"]

    options = {"trust_coefficient": 0.02, "trust_clip": True, "trust_eps": 0.5}
    optimizer = make("lars", schedule(), weight_decay=0.1, **options)
    assert_same(
        train(optimizer, unbalanced_parameters(), GRADIENTS),
        by_hand(rule, unbalanced_parameters(), GRADIENTS),
    )


def test_clipped_lars_moves_a_tensor_at_the_learning_rate_where_a_norm_is_zero(float64):
    params = draw(0)
    params["projector/dense/kernel"][:] = 0.0
    optimizer = make("lars", lambda _: 0.5, trust_clip=True)
    after = train(optimizer, params, GRADIENTS[:1])[0]["projector/dense/kernel"]
    np.testing.assert_allclose(after, -0.5 * GRADIENTS[0]["projector/dense/kernel"], **EXACT)


def test_the_trust_ratio_has_its_epsilon_in_the_denominator(float64):
    optimizer = make("lars", schedule(), weight_decay=0.1, trust_eps=0.5)
    expected = by_hand(lars_rule(eps=0.5), draw(0), GRADIENTS)
    assert_same(train(optimizer, draw(0), GRADIENTS), expected)


def test_trust_clip_is_rejected_without_lars():
    with pytest.raises(UserError, match="trust_clip=True has no effect"):
        make("sgd", schedule(), trust_clip=True)


# ------------------------------------------------------------------------------------- the registry

# Chains of optax alone, as they were before there was a registry; the state of a checkpoint has
# this structure. The LARS transformations themselves are checked above.
CHAINS = {
    "lars": lambda rate: (
        optax.add_decayed_weights(0.1, exclusions.decay_mask),
        optax.masked(trust_ratio.adapted_by_trust_ratio(0.001), exclusions.decay_mask),
        optax.scale_by_learning_rate(rate),
        optax.trace(0.9),
    ),
    "sgd": lambda rate: (
        optax.add_decayed_weights(0.1, exclusions.decay_mask),
        optax.trace(0.9),
        optax.scale_by_learning_rate(rate),
    ),
    "adam": lambda rate: (
        optax.add_decayed_weights(0.1, exclusions.decay_mask),
        optax.scale_by_adam(0.9, 0.999, 1e-8),
        optax.scale_by_learning_rate(rate),
    ),
    "adamw": lambda rate: (
        optax.scale_by_adam(0.9, 0.999, 1e-8),
        optax.add_decayed_weights(0.1, exclusions.decay_mask),
        optax.scale_by_learning_rate(rate),
    ),
}


@pytest.mark.parametrize("clip_norm", [slow(None), 1.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_and_state_have_the_bits_and_the_structure_of_optax(name, clip_norm):
    clip = () if clip_norm is None else (optax.clip_by_global_norm(clip_norm),)
    reference = optax.chain(*clip, *CHAINS[name](schedule()))
    ours = make(name, schedule(), weight_decay=0.1, clip_norm=clip_norm)
    params = nest({key: jnp.float32(value) for key, value in draw(0).items()})
    states = [ours.init(params), reference.init(params)]
    for gradient in GRADIENTS:
        gradient = nest({key: jnp.float32(value) for key, value in gradient.items()})
        results = [
            optimizer.update(gradient, state, params)
            for optimizer, state in zip((ours, reference), states, strict=True)
        ]
        chex.assert_trees_all_equal(*results)  # structures too
        states = [state for _, state in results]


def test_only_lars_has_trust_ratios_and_momentum_is_nesterovs_in_two():
    entries = {name: optimizer_entry(name) for name in OPTIMIZERS}
    assert [name for name, entry in entries.items() if entry.trust_ratios] == ["lars"]
    assert [name for name, entry in entries.items() if entry.nesterov] == ["lars", "sgd"]
