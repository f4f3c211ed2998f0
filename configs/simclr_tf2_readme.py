"""SimCLR on ImageNet, ResNet-50, batch 4096, 100 epochs: the authors' README.

Source: github.com/google-research/simclr at 383d414, tf2/README.md and the flags' defaults in
tf2/run.py, which differ from the paper: square-root scaling of 0.075, weight decay 1e-4 (paper
1e-6), a head of 3 layers 2048, 2048, 128 (paper 2), each with BatchNorm, brightness multiplied
(paper: added).
Different here: their loss is twice the paper's and this one (LARS sees the factor in BatchNorm and
biases alone); one blur sigma a batch there, one an image here; dense layers of the head start from
N(0, 0.01) there; 31,200 steps here, which omit an epoch's incomplete batch, 31,279 there;
crops, blur, test images and probe as in imagenet_resnet50; their online probe is omitted.
Expected there (README.md, which has the same command): about 64.5 % top-1 by linear evaluation
after 100 epochs. Not run here: it needs a pod.
Hardware and time there: 32 TPU v3 cores, about 6 hours for 100 epochs.
On CIFAR-10 the same README has: --data.size 32, ResNet-18 with CIFAR stem, batch 512, 1000 epochs,
learning rate 1.0 linear, weight decay 1e-4, temperature 0.5, jitter strength 0.5, no blur: 91 %.
Command: cssl-jax pretrain simclr_tf2_readme --workdir RUN
    with the prepared TFDS set, or --data.source and --data.validation-source a folder each
"""

from cssl_jax.config import Config
from cssl_jax.configs import imagenet_resnet50


def get_config() -> Config:
    """The recipe."""
    paper: Config = imagenet_resnet50.get_config()
    return paper.replace(
        {
            "augment.brightness_mode": "multiplicative",
            "model.projector_layers": 3,
            "optimizer.learning_rate": 0.075,
            "optimizer.scaling": "sqrt",
            "optimizer.weight_decay": 1e-4,
        }
    )
