"""Section ``operations``: ResNet-18's convolutions one by one, milliseconds for 64 views."""

import argparse

from step.cases import CONVOLUTIONS, PARTS
from step.steps import CONTENDERS, HUGE, LABELS, measure


def run(options: argparse.Namespace) -> dict:
    """Each contender once, with huge pages; sums count a convolution as often as the net has it."""
    found = {name: measure("convolutions", name + HUGE, options) for name in CONTENDERS}
    counts = [times for times, *_ in CONVOLUTIONS]
    sums = {
        name: [
            sum(times * row[part] for times, row in zip(counts, measured["ms"], strict=True))
            for part in range(len(PARTS))
        ]
        for name, measured in found.items()
        if "failed" not in measured
    }
    return {"convolutions": CONVOLUTIONS, "contenders": found, "sums": sums}


def table(section: dict) -> str:
    lines = []
    for part, title in enumerate(PARTS):
        lines.append(f"{title + ', ms':<34}" + "".join(f"{LABELS[n]:>20}" for n in CONTENDERS))
        for number, (times, side, channels, out, kernel, stride) in enumerate(CONVOLUTIONS):
            name = f"{times} x {kernel}x{kernel}, {channels} to {out}, {side} px"
            name += f" / {stride}" if stride > 1 else ""
            cells = [
                f"{found['ms'][number][part]:>20.1f}" if "ms" in found else f"{'-':>20}"
                for found in (section["contenders"][n] for n in CONTENDERS)
            ]
            lines.append(f"  {name:<32}" + "".join(cells))
        sums = [
            f"{section['sums'][n][part]:>20.0f}" if n in section["sums"] else f"{'-':>20}"
            for n in CONTENDERS
        ]
        lines.append(f"  {'sum over the network':<32}" + "".join(sums))
    return "\n".join(lines)
