"""Base of the augmentation policies of all modalities."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """Augmentation policy: which operations a view undergoes, and with which strength.

    A modality has its own policy class, whose fields are the options of the config section
    augment. A policy is hashable: compiled functions take it as a static argument.
    """

    @property
    def per_view(self) -> tuple[str, ...]:
        """Names of the fields with one probability for all views, or one for each view."""
        return ()
