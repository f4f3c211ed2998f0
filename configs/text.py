"""SimCSE on your own text: a small BERT from random weights, batch 128, 10 epochs.

Source: SimCSE (arXiv 2104.08821) for the loss, its temperature 0.05, the dropout of 0.1 and 32
tokens; deleted tokens, no head, and the learning rate are this project's own, for training from
random weights instead of BERT's.
Expected: see docs/text.md for the sets that were measured.
Hardware and time: see docs/text.md.
Needs: data.source, a .txt file with one text per line, or a .jsonl, .csv, .tsv or .parquet file
with a column text; labels are not needed, and are used for evaluation only.
Command: cssl-jax pretrain text --data.source corpus.txt --workdir RUN
"""

from cssl_jax.augment.text.policy import TextPolicy
from cssl_jax.config import (
    Config,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    TextData,
    TrainConfig,
)
from cssl_jax.methods.simcse import SimCSEConfig


def get_config() -> Config:
    """The recipe."""
    return Config(
        data=TextData(source="corpus.txt"),
        augment=TextPolicy(delete=(0.3,)),
        model=ModelConfig(encoder="bert_tiny", width=2.0),
        method=SimCSEConfig(head="none"),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=1e-3,
            scaling="none",
            warmup_epochs=0.5,
            weight_decay=0.0,
        ),
        train=TrainConfig(batch_size=128, epochs=10, evaluate_every=2, checkpoint_every=2),
        evaluate=EvaluateConfig(knn_k=5, batch_size=256),
    )
