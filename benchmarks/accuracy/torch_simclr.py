"""The recipe ``cifar10_resnet18`` in PyTorch, as its users would write it: no part of cssl_jax."""

import importlib
import math
import os
import pathlib
import time
from typing import Any

import numpy as np

TEMPERATURE = 0.5
RATE, MOMENTUM, DECAY = 0.06 / 256, 0.9, 5e-4  # the rate is of one image


def train(
    folder: str,
    train: str,
    test: str,
    *,
    batch_size: int,
    epochs: int,
    every: int,
    images: int,
    probe_images: int,
    imports: list[str],
) -> dict[str, Any]:
    """Trains; keeps the features of both sets every so many epochs, for ``race.probe``."""
    for name in imports:
        importlib.import_module(name)
    import torch
    import torchvision

    torch.manual_seed(0)
    place, cuda = pathlib.Path(folder), torch.cuda.is_available()
    place.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if cuda else "cpu")
    known, held_out = (dict(np.load(file, allow_pickle=False)) for file in (train, test))
    train_images = known["images"][: images or None]
    scaled = train_images / np.float32(255)
    mean, std = (f(scaled, axis=(0, 1, 2), dtype=float).tolist() for f in (np.mean, np.std))
    loader = torch.utils.data.DataLoader(
        _Pairs(train_images, mean, std),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        persistent_workers=True,
        pin_memory=cuda,
    )
    model = torchvision.models.resnet18(weights=None)
    model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool, model.fc = torch.nn.Identity(), torch.nn.Identity()
    head = torch.nn.Sequential(
        torch.nn.Linear(512, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 128)
    )
    both = torch.nn.Sequential(model, head).to(device, memory_format=torch.channels_last)
    compiled = torch.compile(both) if cuda else both
    optimizer = torch.optim.SGD(
        both.parameters(), lr=RATE * batch_size, momentum=MOMENTUM, weight_decay=DECAY
    )
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    found: dict[str, Any] = {"epochs": [], "seconds": [], "features": [], "top1": []}
    spent = 0.0
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        both.train()
        for first, second in loader:
            x = torch.cat([first, second]).to(
                device, memory_format=torch.channels_last, non_blocking=True
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
                z = compiled(x)
            loss = _nt_xent(z.float())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        if cuda:
            torch.cuda.synchronize()
        spent += time.perf_counter() - start
        if epoch % every == 0 or epoch == epochs:
            file = place / f"features_{epoch}.npz"
            shown = known["images"][:probe_images], held_out["images"]
            features = [_features(model, x, mean, std, device) for x in shown]
            np.savez(
                file,
                train=features[0],
                train_labels=known["labels"][:probe_images],
                test=features[1],
                test_labels=held_out["labels"],
            )
            found["epochs"].append(epoch)
            found["seconds"].append(spent)
            found["features"].append(str(file))
    return {
        **found,
        "device": torch.cuda.get_device_name() if cuda else "",
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }


class _Pairs:
    """Two views of every image."""

    def __init__(self, images: np.ndarray, mean: list[float], std: list[float]) -> None:
        from torchvision import transforms

        self._images = images
        self._view = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomResizedCrop(32, scale=(0.2, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                transforms.RandomGrayscale(p=0.1),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = self._images[index]
        return self._view(image), self._view(image)


def _nt_xent(z: Any) -> Any:
    """Mean over the 2N anchors of projections [2N, d], the views of all examples in turn."""
    import torch

    z = torch.nn.functional.normalize(z, dim=1)
    logits = z @ z.T / TEMPERATURE
    logits.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return torch.nn.functional.cross_entropy(logits, partner)


def _features(model: Any, images: np.ndarray, mean: list, std: list, device: Any) -> np.ndarray:
    """float32 [N, 512] of uint8 [N, 32, 32, 3]."""
    import torch

    model.eval()
    parts = []
    with torch.no_grad():
        for i in range(0, len(images), 512):
            x = (images[i : i + 512] / np.float32(255) - np.float32(mean)) / np.float32(std)
            x = torch.from_numpy(np.float32(x)).permute(0, 3, 1, 2).to(device)
            parts.append(model(x.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(parts).numpy()
