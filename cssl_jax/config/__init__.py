"""The typed truth about a run: frozen dataclasses and what makes their values valid."""

from cssl_jax.config.audio import AudioData
from cssl_jax.config.config import Config, code_names
from cssl_jax.config.data import DataConfig, ImageData
from cssl_jax.config.evaluate import EvaluateConfig
from cssl_jax.config.method import (
    FINETUNE_STEPS,
    AdaptConfig,
    ClassifierConfig,
    MethodConfig,
    SimCLRConfig,
)
from cssl_jax.config.model import ModelConfig
from cssl_jax.config.optimizer import OptimizerConfig
from cssl_jax.config.runtime import RuntimeConfig
from cssl_jax.config.series import SeriesData
from cssl_jax.config.text import TextData
from cssl_jax.config.train import TrainConfig

__all__ = [
    "FINETUNE_STEPS",
    "AdaptConfig",
    "AudioData",
    "ClassifierConfig",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "ImageData",
    "MethodConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RuntimeConfig",
    "SeriesData",
    "SimCLRConfig",
    "TextData",
    "TrainConfig",
    "code_names",
]
