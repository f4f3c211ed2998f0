"""What must hold of every file, however it is broken."""

import csv

import numpy as np

REASONS = {"empty", "unreadable", "truncated", "oversize", "too small", "duplicate"}
MOST_PIXELS = 1_000_000


class RefusedError(Exception):
    """A UserError, as it should be."""


def one_message(function, *args, **options):
    """What a function gives, or RefusedError where it says what is wrong in a UserError."""
    from cssl_jax.errors import UserError

    try:
        return function(*args, **options)
    except UserError as error:
        text = str(error)
        assert text.strip(), "an empty message"
        assert len(text) < 4000, f"a message of {len(text)} letters: {text[:200]}"
        assert "Traceback" not in text
        raise RefusedError from error


def check_set(spec, folder, kept=()):
    """Every image of a set decodes, or is in rejected.csv; those of ``kept`` decode."""
    from cssl_jax.config.images import ImageOptions
    from cssl_jax.data.cleaning import scan
    from cssl_jax.data.sources.open import load_source, open_records

    options = ImageOptions(max_rejected=1.0, max_pixels=MOST_PIXELS)
    records = one_message(open_records, spec, options)
    index = scan.scan(records, channels=3, min_side=8, max_pixels=MOST_PIXELS)
    rows = scan.rejected(records.names, index)
    file = folder / "rejected.csv"
    scan.write_rejected(file, rows)
    with file.open(newline="", errors="surrogateescape") as content:
        read = list(csv.DictReader(content))
    assert len(read) == len(rows) == sum(bool(reason) for reason in index.reason)
    assert all(row["reason"] in REASONS for row in read), read
    bad = {name for name, *_ in rows}
    assert not bad & set(kept), (rows, kept)
    assert all(name in records.names for name in kept)
    source = one_message(load_source, spec, options)
    assert len(source) == len(index.kept)
    for block in source.blocks(64, 8):
        assert block["image"].dtype == np.uint8
        assert block["image"].shape[-1] == 3
