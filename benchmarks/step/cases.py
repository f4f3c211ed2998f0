"""What is measured: three whole steps, and the convolutions of ResNet-18 on images of 32 px."""

RECIPE = "cifar10_resnet18"
# Name -> (encoder, width, stem, side of the views in px, examples per step).
STEPS = {
    "ResNet-18, 32 px": ("resnet18", 1.0, "cifar", 32, 32),
    "ResNet-10 x0.25, 96 px": ("resnet10", 0.25, "imagenet", 96, 32),
    "ResNet-50, 64 px": ("resnet50", 1.0, "imagenet", 64, 32),
}
VIEWS = 64
# (times in the network, side of the input, channels in and out, kernel, stride).
CONVOLUTIONS = (
    (1, 32, 3, 64, 3, 1),
    (4, 32, 64, 64, 3, 1),
    (1, 32, 64, 128, 3, 2),
    (1, 32, 64, 128, 1, 2),
    (3, 16, 128, 128, 3, 1),
    (1, 16, 128, 256, 3, 2),
    (1, 16, 128, 256, 1, 2),
    (3, 8, 256, 256, 3, 1),
    (1, 8, 256, 512, 3, 2),
    (1, 8, 256, 512, 1, 2),
    (3, 4, 512, 512, 3, 1),
)
PARTS = ("forward", "input gradient", "kernel gradient")


def median_ms(call, seconds: float) -> float:
    """Milliseconds per call, after one that is not timed."""
    import statistics
    import time

    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)
