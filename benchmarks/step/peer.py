"""The same step and convolutions in PyTorch, channels-last: no part of cssl_jax."""

import importlib
from typing import Any

from step.cases import CONVOLUTIONS, STEPS, VIEWS, median_ms

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


def step(case: str, *, imports: list[str], seconds: float) -> dict[str, Any]:
    """Milliseconds per train step and views per second."""
    for name in imports:
        importlib.import_module(name)
    import torch
    from accelerator.torch_steps import nt_xent

    encoder, width, stem, side, examples = STEPS[case]
    features, size = _encoder(encoder, width, stem)
    head = torch.nn.Sequential(
        torch.nn.Linear(size, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 128)
    )
    model = torch.nn.Sequential(features, head).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, foreach=True
    )
    noise = torch.randint(0, 256, (2 * examples, 3, side, side), dtype=torch.uint8)
    noise = noise.contiguous(memory_format=torch.channels_last)

    def one() -> None:
        loss = nt_xent(model(noise.float() / 255))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    ms = median_ms(one, seconds)
    return {"ms": ms, "views_per_s": 1e3 * 2 * examples / ms, "torch": torch.__version__}


def _encoder(name: str, width: float, stem: str) -> tuple[Any, int]:
    """(module from images to features, size of the features); torchvision's blocks at any width."""
    import torch
    from torchvision.models.resnet import BasicBlock, Bottleneck

    nn, block = torch.nn, Bottleneck if name == "resnet50" else BasicBlock
    base = round(64 * width)
    first = nn.Conv2d(3, base, 3, padding=1, bias=False)
    if stem == "imagenet":
        first = nn.Conv2d(3, base, 7, stride=2, padding=3, bias=False)
    layers = [first, nn.BatchNorm2d(base), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(3, 2, 1)] if stem == "imagenet" else []
    channels = base
    for stage, count in enumerate(BLOCKS[name]):
        for number in range(count):
            stride, out = 2 if stage and not number else 1, base * 2**stage
            shortcut = None
            if stride != 1 or channels != out * block.expansion:
                shortcut = nn.Sequential(
                    nn.Conv2d(channels, out * block.expansion, 1, stride, bias=False),
                    nn.BatchNorm2d(out * block.expansion),
                )
            layers.append(block(channels, out, stride, shortcut))
            channels = out * block.expansion
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


def convolutions(*, imports: list[str], seconds: float) -> dict[str, list[list[float]]]:
    """Milliseconds of forward, input gradient and kernel gradient for each of ``CONVOLUTIONS``."""
    for name in imports:
        importlib.import_module(name)
    import torch

    rows = []
    for _, side, channels, out, kernel, stride in CONVOLUTIONS:
        last = {"memory_format": torch.channels_last}
        x = torch.randn(VIEWS, channels, side, side).contiguous(**last)
        k = torch.randn(out, channels, kernel, kernel).contiguous(**last)
        shape = ([stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], 1)
        g = torch.randn_like(torch.ops.aten.convolution(x, k, None, *shape))
        calls = [lambda x=x, k=k, shape=shape: torch.ops.aten.convolution(x, k, None, *shape)]
        calls += [
            lambda x=x, k=k, g=g, shape=shape, mask=mask: torch.ops.aten.convolution_backward(
                g, x, k, None, *shape, mask
            )
            for mask in ([True, False, False], [False, True, False])
        ]
        rows.append([median_ms(call, seconds) for call in calls])
    return {"ms": rows}
