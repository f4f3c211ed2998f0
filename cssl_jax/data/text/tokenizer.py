"""Tokenizers as JSON text: trained on a user's corpus, or read from a file."""

import functools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cssl_jax.errors import MissingDataError, UserError, short

FILE = "tokenizer.json"  # name of a tokenizer in a folder
BUCKETS = (16, 32, 64, 128, 256, 512)  # numbers of tokens that texts are padded to
PAD, UNKNOWN, START, END = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")  # numbered from 0


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, lowercase: bool) -> str:
    """Trains byte-level BPE (arXiv 1508.07909) on texts; [CLS] and [SEP] are put around each text.

    Byte-level BPE has no unknown tokens, and its training gives the same bytes every time, which
    that of WordPiece and Unigram does not.

    Args:
        texts: Texts to learn the merges from.
        vocabulary: Maximum number of tokens, the 4 special ones and the 256 bytes included.
        lowercase: True to lowercase every text.

    Returns:
        The tokenizer as JSON, as the library tokenizers writes it.
    """
    library = _library()
    made = library.Tokenizer(library.models.BPE(unk_token=UNKNOWN))
    steps = [library.normalizers.NFKC(), *[library.normalizers.Lowercase()] * lowercase]
    made.normalizer = library.normalizers.Sequence(steps)
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = library.processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(name, SPECIAL.index(name)) for name in (START, END)],
    )
    written: str = made.to_str()
    return written


def read_tokenizer(path: str | pathlib.Path) -> str:
    """Reads a tokenizer as JSON text.

    Args:
        path: File of the library tokenizers, or a folder with such a file, tokenizer.json.

    Raises:
        MissingDataError: There is no such file.
        UserError: The file is no tokenizer.
    """
    path = pathlib.Path(path).expanduser()
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise MissingDataError(
            f"data.tokenizer {str(path)!r} does not exist; give a file {FILE} of the library "
            'tokenizers, or "" to train one on the training split'
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no readable text file: {error}") from error
    _opened(text, 0, str(path))
    return text


def vocabulary_size(tokenizer: str) -> int:
    """Largest number of a token plus 1."""
    vocabulary: dict[str, int] = _opened(tokenizer, 0).get_vocab(with_added_tokens=True)
    return max(vocabulary.values(), default=-1) + 1


def tokenize(tokenizer: str, texts: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """Numbers of the tokens of texts.

    Args:
        tokenizer: Tokenizer as JSON.
        texts: N texts.
        length: Maximum number of tokens per text; the rest of a longer text is omitted.

    Returns:
        {"tokens": int32 [N, T], 0 from the length on, "length": int32 [N], at least 1}. T is the
        smallest number of ``BUCKETS`` that holds all texts, at most ``length``: few shapes are
        compiled, and short texts are not padded to the length of long ones.
    """
    encoded = _opened(tokenizer, length).encode_batch_fast(list(texts))
    counts = np.array([len(one.ids) for one in encoded], np.int32)
    longest = int(counts.max(initial=1))
    steps = min(length, next(size for size in BUCKETS if size >= longest))
    tokens = np.zeros((len(encoded), steps), np.int32)
    filled = np.arange(steps) < counts[:, None]
    tokens[filled] = np.concatenate([one.ids for one in encoded]) if encoded else []
    # A tokenizer without special tokens gives an empty text no token; padding stands for one.
    return {"tokens": tokens, "length": np.maximum(counts, 1)}


def count_tokens(tokenizer: str, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of tokens and of unknown tokens per text, without truncation; int [N] each."""
    opened = _opened(tokenizer, 0)
    unknown = opened.token_to_id(UNKNOWN)
    encoded = [one.ids for one in opened.encode_batch_fast(list(texts))]
    unknowns = [ids.count(unknown) if unknown is not None else 0 for ids in encoded]
    return np.array([len(ids) for ids in encoded], int), np.array(unknowns, int)


def detokenize(tokenizer: str, tokens: np.ndarray, length: np.ndarray) -> list[str]:
    """Texts of tokens [N, T] of which the first length [N] count, without the special tokens."""
    rows = [row[:count].tolist() for row, count in zip(tokens, length, strict=True)]
    texts: list[str] = _opened(tokenizer, 0).decode_batch(rows, skip_special_tokens=True)
    return [text.strip() for text in texts]


@functools.lru_cache(maxsize=4)
def _opened(tokenizer: str, length: int, where: str = "the tokenizer") -> Any:
    """The tokenizer of a JSON text, without padding; ``length`` 0: without truncation."""
    library = _library()
    try:
        opened = library.Tokenizer.from_str(tokenizer)
        opened.no_padding()
        opened.no_truncation()
        if length:
            opened.enable_truncation(length)
    except Exception as error:  # the library raises plain Exceptions
        reason = short(str(error).partition("\n")[0])
        raise UserError(
            f"{where} is no tokenizer: {reason}; give a file {FILE} of the library tokenizers"
        ) from error
    return opened


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            "text needs the package tokenizers, which is not installed: pip install tokenizers"
        ) from error
    return tokenizers
