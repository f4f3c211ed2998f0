"""Protocol "groups" on a run's encoder, the untrained one and the baselines of the modality."""

from collections.abc import Callable

import numpy as np

from cssl_jax.config import Config
from cssl_jax.data.sources.base import Source
from cssl_jax.evaluate.encoders.encoder_hash import variables_hash
from cssl_jax.evaluate.encoders.features import encoder_variables, make_embed
from cssl_jax.evaluate.encoders.load import Encoder
from cssl_jax.evaluate.encoders.untrained import describe_untrained
from cssl_jax.evaluate.protocols.leave_group_out import leave_group_out
from cssl_jax.evaluate.protocols.linear import L2_VALUES
from cssl_jax.evaluate.results import BASELINES, UNTRAINED, EncoderHash, Results
from cssl_jax.evaluate.scores import BaselineScores, GroupScores


def evaluate_groups(
    encoder: Encoder, config: Config, source: Source, groups: np.ndarray
) -> Results:
    """Evaluates the last checkpoint and its baselines, one held-out group after another.

    Args:
        encoder: Encoder of the run.
        config: Config of the run, with the evaluation options to use.
        source: Labelled examples of all groups.
        groups: Group of every example, str [N].

    Returns:
        Metrics ``groups`` of ``leave_group_out``, and those of the untrained encoder and of the
        baselines of the modality.
    """
    labels = source.labels
    assert labels is not None
    embed = make_embed(
        encoder.method.encoder, encoder.mesh, encoder.spec, batch_size=config.evaluate.batch_size
    )
    untrained = encoder_variables(encoder.untrained(source))
    own = encoder.modality.baselines
    rows: dict[str, Callable[[Source], np.ndarray]] = {
        UNTRAINED: lambda source: embed(untrained, source),
        **{name: baseline.fitted_on(source) for name, baseline in own.items()},
    }

    def scores(features: np.ndarray) -> GroupScores:
        return leave_group_out(
            features,
            labels,
            groups,
            num_classes=source.num_classes,
            l2_values=config.evaluate.l2_values or L2_VALUES,
            seed=config.train.seed,
        )

    trained = scores(encoder.embed(source))
    baselines = {
        name: BaselineScores(
            groups=scores(features(source)),
            description=describe_untrained(len(source)) if name == UNTRAINED else None,
        )
        for name, features in rows.items()
    }
    return Results(
        step=encoder.step,
        num_classes=source.num_classes,
        groups=trained,
        baselines=baselines,
        baseline_labels={
            UNTRAINED: BASELINES[UNTRAINED],
            **{name: baseline.label for name, baseline in own.items()},
        },
        encoder_hash=EncoderHash(last=variables_hash(encoder.model), unchanged=True),
        key_order=("step", "num_classes", "groups", *baselines),
    )
