"""Config section data of the modality text."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from cssl_jax.config.data import DataConfig
from cssl_jax.config.ranges import Range


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextData(DataConfig):
    """Where text comes from, and the input of its encoder.

    Attributes:
        source: Training texts: a .txt file with one text per line; a .jsonl file with one object
            per line; or a .csv, .tsv or .parquet table with one row per text. Objects and tables
            have text in text_column and optionally label and group.
        labels: Labels of the texts: "auto" takes the column label, "none" ignores it.
        validation_fraction: Fraction of the source that is held out if there is no
            validation_source. Groups are held out as a whole.
        text_column: Column or key of the text in a table or .jsonl file.
        length: Maximum number of tokens of a text, the two tokens at its ends included; the rest of
            a longer text is not read.
        vocabulary: Number of tokens of the encoder. A tokenizer that is trained on the training
            split has at most so many.
        lowercase: Lowercase the text before a tokenizer is trained; a given tokenizer has rules of
            its own.
        tokenizer: File tokenizer.json of the library tokenizers, or a folder with such a file; ""
            trains byte-level BPE on the training split, or takes that of train.init.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        **DataConfig.ranges,
        "length": Range(lambda value: 3 <= value <= 512, "a number from 3 to 512"),
        "vocabulary": Range(lambda value: 261 <= value < 2**24, "261 or more: bytes and 5 others"),
    }

    modality: str = "text"
    source: str = ""
    text_column: str = "text"
    length: int = 32
    vocabulary: int = 8192
    lowercase: bool = True
    tokenizer: str = ""
