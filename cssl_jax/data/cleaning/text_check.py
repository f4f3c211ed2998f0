"""Report of `cssl-jax data check` on a set of texts."""

import collections
from typing import Any

import numpy as np

from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.text import tokenizer
from cssl_jax.errors import short

SHOWN = 5  # maximum number of repeated texts in the report
CLASSES_SHOWN = 12  # maximum number of classes in the report
LIMITS = (32, 64, 128, 512)  # numbers of tokens whose excess is counted
REPLACED = "\ufffd"  # character in the place of bytes that could not be decoded


def summarize(source: ArraySource, *, vocabulary: int = 8192) -> dict[str, Any]:
    """Collects all values that ``report`` shows, as JSON-serialisable types.

    Args:
        source: Texts, {"text": object [N]}.
        vocabulary: Maximum number of tokens of the tokenizer that is trained to count tokens.
    """
    texts = source.examples["text"].tolist()
    trained = tokenizer.train_tokenizer(texts, vocabulary=vocabulary, lowercase=True)
    tokens, unknown = tokenizer.count_tokens(trained, texts)
    repeated = [texts[numbers[0]] for numbers in duplicates(source)]
    content: dict[str, Any] = {
        "source": source.name,
        "texts": len(texts),
        "characters": _spread(np.array([len(text) for text in texts])),
        "words": _spread(np.array([len(text.split()) for text in texts])),
        "tokens": _spread(tokens),
        "vocabulary": tokenizer.vocabulary_size(trained),
        "above": {str(limit): int((tokens > limit).sum()) for limit in LIMITS},
        "unknown_tokens": int(unknown.sum()),
        "undecoded": sum(REPLACED in text for text in texts),
        "duplicates": len(texts) - len(set(texts)),
        "repeated": repeated[:SHOWN],
        "notes": list(source.notes),
    }
    if source.labels is not None:
        counts = collections.Counter(source.labels.tolist())
        content["unlabelled"] = counts.pop(-1, 0)
        content["classes"] = {
            source.classes[i] if source.classes else str(i): counts[i]
            for i in range(source.num_classes)
        }
    if source.groups is not None:
        content["groups"] = len(np.unique(source.groups))
    return content


def duplicates(source: ArraySource) -> list[list[int]]:
    """Sets of identical texts, as lists of their numbers."""
    found: dict[str, list[int]] = {}
    for number, text in enumerate(source.examples["text"]):
        found.setdefault(text, []).append(number)
    return [numbers for numbers in found.values() if len(numbers) > 1]


def report(content: dict[str, Any]) -> str:
    """Formats the result of ``summarize`` for a terminal."""
    lines = [content["source"], f"  {content['texts']:,} texts", ""]
    for name in ("characters", "words", "tokens"):
        low, middle, high, longest = content[name]
        lines.append(
            f"{name:<12}{low:,} to {longest:,}, median {middle:,}, 95 % have at most {high:,}"
        )
    above = ", ".join(f"{count:,} above {limit}" for limit, count in content["above"].items())
    lines += [
        f"{'length':<12}{above} tokens (BPE, {content['vocabulary']:,} tokens)",
        f"{'duplicates':<12}{content['duplicates']:,} texts repeat an earlier one",
    ]
    lines += [f"  {short(text)}" for text in content["repeated"]]
    if content["undecoded"]:
        lines.append(
            f"{'undecoded':<12}{content['undecoded']:,} texts hold the character U+FFFD: they were "
            "read in a wrong encoding"
        )
    if "classes" not in content:
        lines.append(f"{'labels':<12}none")
    else:
        counts = sorted(content["classes"].items(), key=lambda item: (-item[1], item[0]))
        shown = [f"  {short(name)[1:-1]} {count:,}" for name, count in counts[:CLASSES_SHOWN]]
        lines.append(
            f"{'labels':<12}{len(counts):,} classes, {content['unlabelled']:,} texts without label"
        )
        more = len(counts) - len(shown)
        lines += shown + ([f"  ... {more:,} more"] if more else [])
    if "groups" in content:
        lines.append(f"{'groups':<12}{content['groups']:,}; a split keeps each on one side")
    return "\n".join([*lines, *(f"\n{note}" for note in content["notes"])])


def _spread(counts: np.ndarray) -> list[int]:
    """Minimum, median, 95th percentile and maximum."""
    found = np.percentile(counts, [0, 50, 95, 100], method="higher")
    return [int(value) for value in found]
