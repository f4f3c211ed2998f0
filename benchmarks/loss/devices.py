"""Section ``devices``: memory that the compiled loss takes on each of several simulated devices."""

import argparse

from measuring import process
from measuring.report import cpu_environment, megabytes, target

from loss.contenders import TEMPERATURE, WIDTH

DENSE_BOUNDS = {16_384: 1 / 12, 65_536: 1 / 40}
GATHERED_BOUND = 2.5


def run(options: argparse.Namespace) -> dict:
    """One process for each size and kind of loss; nothing is computed, only compiled."""
    flags = f"--xla_force_host_platform_device_count={options.devices}"
    rows = []
    for pairs in options.device_pairs:
        row = {"pairs": pairs, "devices": options.devices, "gathered_bytes": 2 * pairs * WIDTH * 4}
        for name, tile in (("dense", None), ("tiled", "auto")):
            values = process.call(
                "loss.devices.compiled",
                pairs=pairs,
                tile=tile,
                environment={**cpu_environment(), "XLA_FLAGS": flags},
                timeout=options.timeout,
                memory_limit=options.memory_limit,
            )
            row |= {f"{name}_{key}": value for key, value in values.items()}
        tiled, dense = row.get("tiled_bytes"), row.get("dense_bytes")
        row["tiled_over_dense"] = tiled / dense if tiled and dense else None
        row["tiled_over_gathered"] = tiled / row["gathered_bytes"] if tiled else None
        rows.append(row)
    return {"rows": rows, "targets": _targets(rows)}


def compiled(pairs: int, tile: str | None) -> dict:
    """Temporary bytes a device of loss and gradient, rows split over all devices."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from cssl_jax.losses import nt_xent
    from cssl_jax.runtime import spmd

    mesh = spmd.make_mesh()
    split = PartitionSpec(spmd.AXIS)

    def share(z1, z2):
        return nt_xent(z1, z2, temperature=TEMPERATURE, axis_name=spmd.AXIS, tile_size=tile)

    def step(z1, z2):
        value, gradient = jax.value_and_grad(share, argnums=(0, 1))(z1, z2)
        return jax.lax.pmean(value, spmd.AXIS), gradient

    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=split, out_specs=(PartitionSpec(), split), check_vma=False
    )
    view = jax.ShapeDtypeStruct((pairs, WIDTH), "float32", sharding=NamedSharding(mesh, split))
    memory = jax.jit(mapped).lower(view, view).compile().memory_analysis()
    return {"bytes": memory.temp_size_in_bytes}


def _targets(rows: list[dict]) -> list[dict]:
    by_pairs = {row["pairs"]: row for row in rows}
    targets = []
    for pairs, bound in DENSE_BOUNDS.items():
        values = [by_pairs[pairs]["tiled_over_dense"]] if pairs in by_pairs else []
        targets.append(target(f"memory a device / dense's, 2 x {pairs:,} rows", values, bound))
    values = [by_pairs[pairs]["tiled_over_gathered"] for pairs in DENSE_BOUNDS if pairs in by_pairs]
    text = "memory a device / gathered projections"
    return [*targets, target(text, values, GATHERED_BOUND)]


def table(section: dict) -> str:
    lines = [f"{'rows':>12}{'dense':>12}{'tiled':>12}{'gathered':>12}{'dense/tiled':>13}"
             f"{'tiled/gathered':>16}"]  # fmt: skip
    for row in section["rows"]:
        cells = [f"2 x {row['pairs']:,}"]
        for name in ("dense", "tiled", "gathered"):
            size = row.get(f"{name}_bytes")
            cells.append(row[f"{name}_failed"] if size is None else megabytes(size))
        dense, gathered = row["tiled_over_dense"], row["tiled_over_gathered"]
        cells += ["-" if dense is None else f"{1 / dense:.1f}"]
        cells += ["-" if gathered is None else f"{gathered:.2f}"]
        widths = (12, 12, 12, 12, 13, 16)
        lines.append("".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)))
    count = section["rows"][0]["devices"] if section["rows"] else 0
    lines.append(f"a device of {count}, compiled temporaries of loss and gradient; nothing was run")
    return "\n".join(lines)
