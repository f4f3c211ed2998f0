"""The whole config: all sections."""

import dataclasses

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.config.data import DataConfig
from cssl_jax.config.evaluate import EvaluateConfig
from cssl_jax.config.method import AdaptConfig, ClassifierConfig, MethodConfig
from cssl_jax.config.model import ModelConfig
from cssl_jax.config.optimizer import OptimizerConfig
from cssl_jax.config.runtime import RuntimeConfig
from cssl_jax.config.train import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that defines a run; defaults are the SimCLR paper's for ImageNet, at batch 256."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augment: ImagePolicy = dataclasses.field(default_factory=ImagePolicy)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    method: MethodConfig = dataclasses.field(default_factory=MethodConfig)
    classifier: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
    adapt: AdaptConfig = dataclasses.field(default_factory=AdaptConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)
