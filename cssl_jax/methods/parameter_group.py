"""How a method asks the optimizer to treat some of its parameters."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Differences of some parameters from the others, applied inside the optimizer.

    Attributes:
        learning_rate: Multiplier of the learning rate.
        weight_decay: Multiplier of the weight decay.
        constant: True to use the peak learning rate at every step, without warm-up and decay, as
            for the predictor of SimSiam.
        frozen_epochs: Number of epochs from the start of the run, fractions allowed, in which the
            parameters do not change; infinity: always. A frozen parameter has the gradient 0, and
            the optimizer's state for it stays as it is.
    """

    learning_rate: float = 1.0
    weight_decay: float = 1.0
    constant: bool = False
    frozen_epochs: float = 0.0


FROZEN = ParameterGroup(frozen_epochs=float("inf"))
