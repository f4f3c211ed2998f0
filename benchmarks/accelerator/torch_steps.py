"""Section ``torch``: the same steps in PyTorch: channels-last, autocast, compiled and eager."""

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

from accelerator.recorder import Recorder

IMPORTS = "KIT_TORCH_IMPORTS"  # modules, with commas, that torchvision needs to have imported first


def run(record: Recorder, *, small: bool) -> None:
    """ResNet-50 at 224 px and ResNet-18 with the CIFAR stem; bfloat16 first."""
    for name in filter(None, os.environ.get(IMPORTS, "").split(",")):
        importlib.import_module(name)
    import torch

    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    rows = [
        ("resnet50", "bfloat16", True),
        ("resnet18", "bfloat16", True),
        ("resnet50", "bfloat16", False),
        ("resnet18", "bfloat16", False),
    ]
    if small:
        rows = [("resnet18", "float32", False)]
    for encoder, dtype, compiled in rows:
        name = f"torch {encoder} {dtype} {'compiled' if compiled else 'eager'}"

        def measure(
            encoder: str = encoder, dtype: str = dtype, compiled: bool = compiled, name: str = name
        ) -> None:
            record.put(name, **_measure(encoder, dtype, compiled, small))

        record.attempt(name, measure, seconds=10 if small else 25)


def _measure(encoder: str, dtype: str, compiled: bool, small: bool) -> dict[str, float]:
    import torch

    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model, width, views, size = _encoder(encoder, small)
    head = torch.nn.Sequential(
        torch.nn.Linear(width, width),
        torch.nn.BatchNorm1d(width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, 128),
    )
    both = torch.nn.Sequential(model, head).to(device, memory_format=torch.channels_last).train()
    call = torch.compile(both) if compiled else both
    optimizer = torch.optim.SGD(
        both.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-6, foreach=True
    )
    noise = torch.randint(0, 256, (views, 3, size, size), dtype=torch.uint8, device=device)
    noise = noise.contiguous(memory_format=torch.channels_last)

    def step() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            z = call(noise.float() / 255)
        loss = nt_xent(z.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    per_step, first = _time(step, torch.cuda.synchronize if cuda else lambda: None)
    return {
        "ms": 1e3 * per_step,
        "views_per_s": views / per_step,
        "batch_size": views // 2,
        "first_s": first,
        "peak": torch.cuda.max_memory_allocated() if cuda else 0,
    }


def _encoder(name: str, small: bool) -> tuple[Any, int, int, int]:
    """(module without classifier, width of its features, views per step, side in px)."""
    import torch
    import torchvision

    model = getattr(torchvision.models, name)(weights=None)
    model.fc = torch.nn.Identity()
    if name == "resnet18":
        model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
        return model, 512, 16 if small else 1024, 32
    return model, 2048, 256, 224


def nt_xent(z: Any) -> Any:
    import torch

    z = torch.nn.functional.normalize(z, dim=1)
    logits = z @ z.T / 0.1
    logits.fill_diagonal_(-torch.inf)
    positive = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return torch.nn.functional.cross_entropy(logits, positive)


def _time(
    step: Callable[[], Any], synchronize: Callable[[], Any], seconds: float = 2.0
) -> tuple[float, float]:
    """(seconds per step, seconds of the first step, which compiles)."""
    start = time.perf_counter()
    step()
    synchronize()
    first = time.perf_counter() - start
    for _ in range(3):
        step()
    synchronize()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or count < 3:
        step()
        count += 1
        if count % 4 == 0:
            synchronize()
    synchronize()
    return (time.perf_counter() - start) / count, first
