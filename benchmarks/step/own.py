"""The step and its convolutions in this project, with its convolution or with Flax's own."""

import functools
from typing import Any

from step.cases import CONVOLUTIONS, RECIPE, STEPS, VIEWS, median_ms


def step(case: str, *, stock: bool, seconds: float) -> dict[str, float]:
    """Milliseconds per train step, views per second, seconds to compile."""
    import flax.linen as nn
    import jax
    from accelerator.programs import compile_recipe

    from cssl_jax.models import resnet

    if stock:
        keywords = {**resnet.Conv.keywords}
        del keywords["conv_general_dilated"]
        resnet.Conv = functools.partial(nn.Conv, **keywords)
    encoder, width, stem, side, examples = STEPS[case]
    model = {"encoder": encoder, "width": width, "stem": stem}
    overrides: dict[str, Any] = {f"model.{name}": value for name, value in model.items()}
    program = compile_recipe(RECIPE, {**overrides, "train.batch_size": examples}, size=side)
    ms = median_ms(lambda: jax.block_until_ready(program.step()), seconds)
    return {"ms": ms, "views_per_s": 1e3 * program.views / ms, "compile_s": program.compile_s}


def convolutions(*, stock: bool, seconds: float) -> dict[str, list[list[float]]]:
    """Milliseconds of forward, input gradient and kernel gradient for each of ``CONVOLUTIONS``."""
    import jax
    from jax import lax

    from cssl_jax.models.convolution import LAYOUT, convolution

    function = lax.conv_general_dilated if stock else convolution
    rows = []
    for _, side, channels, out, kernel, stride in CONVOLUTIONS:
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (VIEWS, side, side, channels))
        k = jax.random.normal(keys[1], (kernel, kernel, channels, out))
        pads = ((kernel // 2, kernel // 2),) * 2

        def forward(x: Any, k: Any, stride: int = stride, pads: Any = pads) -> Any:
            return function(x, k, (stride, stride), pads, dimension_numbers=LAYOUT)

        g = jax.random.normal(keys[2], jax.eval_shape(forward, x, k).shape)
        parts = (
            lambda x, k, _, f=forward: f(x, k),
            lambda x, k, g, f=forward: jax.vjp(lambda x: f(x, k), x)[1](g),
            lambda x, k, g, f=forward: jax.vjp(lambda k: f(x, k), k)[1](g),
        )
        rows.append([_timed(jax.jit(part), (x, k, g), seconds) for part in parts])
    return {"ms": rows}


def _timed(function: Any, operands: tuple, seconds: float) -> float:
    import jax

    return median_ms(lambda: jax.block_until_ready(function(*operands)), seconds)
