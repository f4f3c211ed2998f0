import dataclasses
import importlib.util
import re

import numpy as np
import pytest

from cssl_jax.data.profile import advice as module
from cssl_jax.data.profile.advice import advice
from helpers import tiny


@dataclasses.dataclass
class Photos:
    """The attributes of a source of images that the advice reads."""

    sizes: np.ndarray
    channels: int = 3


def pipeline(name, sizes=None):
    built = tiny.Run(tiny.config(), pipeline=name).pipeline  # views of 8 px
    return built if sizes is None else dataclasses.replace(built, source=Photos(np.array(sizes)))


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 2)


MIXED, ALIKE, SMALL = [[375, 500], [500, 400], [400, 400]], [[1024, 1024]] * 4, [[20, 24], [24, 20]]


@pytest.mark.parametrize(
    ("name", "sizes", "expected"),
    [
        ("resident", None, "the 2 host cores cannot dispatch steps fast enough"),
        ("stream", None, r"keep the images on the device with --data\.resident True \(0 MiB\)"),
        ("tf", None, r"augmentation on 2 host cores is the limit; .*--data\.augment-on device"),
        ("threads-split", None, r"cropping and resizing on 2 .*--data\.augment-on device"),
        ("tf", MIXED, r"decoding and augmentation on 2 host cores .*--data\.augment-on split"),
        ("threads", MIXED, r"decoding and augmentation .*--data\.augment-on split"),
        (
            "tf-split",
            MIXED,
            r"decoding on 2 .* twice the view's side \(16 px; now 400\), or resize",
        ),
        (
            "tf-split",
            ALIKE,
            r"or decode them once with --data\.in-memory True \(12 MiB\) in a new run, or resize",
        ),
        (
            "tf-split",
            SMALL,
            r"the limit; resize .* --augment\.no-antialias in a new run, or use more host cores$",
        ),
        ("threads-split", SMALL, r"the limit; decode by tf\.data with --data\.engine tf, or use"),
    ],
)
def test_the_advice_fits_the_pipeline_and_its_images(monkeypatch, name, sizes, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    text = advice(pipeline(name, sizes))
    assert re.search(expected, text), text
    assert not text.endswith(".")


def test_installing_tensorflow_is_advised_if_it_is_missing(monkeypatch):
    threads = pipeline("threads-split", SMALL)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install tensorflow, or use" in advice(threads)


def test_one_core_is_named_in_the_singular(monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 1)
    assert "on 1 host core is the limit" in advice(pipeline("tf-split", SMALL))
