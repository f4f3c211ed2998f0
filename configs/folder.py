"""SimCLR on your own images, ResNet-18 at 128 px, batch 256, 200 epochs.

Source: the settings are this project's own for small sets and small hardware; the method is SimCLR
(arXiv 2002.05709). Square-root scaling of LARS does best with small batches and few epochs
(appendix B.1); crops from 20 % of the area rather than 8 % keep enough of a small image;
temperature 0.2 is what its authors later advised for small batches (google-research/simclr, issue
166).
Expected: on 2,000 photos of ten kinds, cut down to what a CPU does in minutes, docs/results.md.
Hardware and time: not measured at this length. Of the like, Lightly document 194 minutes for 800
epochs on Imagenette's 9,469 photos and 3.7 GB, on one A6000 (ResNet-18, 128 px, batch 256).
Needs: images of any size and format in data.source; labels are not needed; sub-folders that are
classes are used for evaluation only.
Command: cssl-jax pretrain folder --data.source IMAGES --workdir RUN
"""

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.config import (
    Config,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    SimCLRConfig,
    TrainConfig,
)


def get_config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(source="images", validation_fraction=0.1, size=128),
        augment=ImagePolicy(crop_area=(0.2, 1.0)),
        model=ModelConfig(encoder="resnet18"),
        method=SimCLRConfig(temperature=0.2),
        optimizer=OptimizerConfig(
            name="lars",
            learning_rate=0.075,
            scaling="sqrt",
            schedule="cosine",
            warmup_epochs=10.0,
            weight_decay=1e-6,
        ),
        train=TrainConfig(batch_size=256, epochs=200, evaluate_every=20, checkpoint_every=20),
        evaluate=EvaluateConfig(knn_k=20, batch_size=256),
    )
