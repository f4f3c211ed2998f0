"""Section ``losses``: NT-Xent with its gradient, whole and in tiles: time and temporaries."""

import functools

from accelerator.recorder import Recorder, seconds_per_call

WIDTH = 128
SIZES = ((512, (None, 1024)), (2048, (None, 1024, 4096)), (8192, (None, "auto", 1024, 4096)),
         (16_384, (None, "auto", 4096)), (65_536, (4096, 8192)))  # fmt: skip
SMALL_SIZES = ((64, (None, 32)), (128, (None, "auto")))


def run(record: Recorder, *, small: bool) -> None:
    """From the whole matrix's natural size to 65,536 pairs, whose matrix would take 69 GB."""
    for pairs, tiles in SMALL_SIZES if small else SIZES:
        for tile in tiles:
            name = f"nt_xent {pairs} pairs, tile {tile}"
            record.attempt(name, functools.partial(_measure, record, name, pairs, tile))


def _measure(record: Recorder, name: str, pairs: int, tile: int | str | None) -> None:
    import jax

    from cssl_jax.losses import nt_xent

    views = [jax.random.normal(jax.random.key(i), (pairs, WIDTH)) for i in range(2)]
    loss = functools.partial(nt_xent, temperature=0.1, tile_size=tile)
    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    compiled = both.lower(*views).compile()
    text = compiled.as_text()
    record.put(
        name,
        pairs=pairs,
        tile=tile,
        ms=1e3 * seconds_per_call(lambda: compiled(*views), 0.5),
        temporaries=compiled.memory_analysis().temp_size_in_bytes,
        loops=text.count(" while("),
        loops_of_known_length=text.count("known_trip_count"),
        conditionals=text.count(" conditional("),
    )
