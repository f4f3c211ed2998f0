"""Long tables of series, and tables of texts: .csv, .parquet and lines that are broken."""

import csv
import functools
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from helpers.fuzzing.contract import one_message

CELLS = ["", "?", "NaN", "1e999", "-1", "7", "x", '"', "\ud800", "\x00", "2024-02-30", "a" * 5000]


def series_columns():
    return {
        "id": ["a", "a", "b", "b", "b", "c"],
        "time": [1, 0, 0, 1, 2, 5],
        "x": [0.5, None, 1.0, 2.0, -1.0, 3.0],
        "y": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "label": ["k", "k", "l", "l", "l", "k"],
        "group": ["p", "p", "q", "q", "q", "p"],
    }


def text_columns():
    return {
        "text": ["One sentence.", 'A "second" one', "日本語", "", "the fifth, at last", "6"],
        "positive": ["One.", "The second", "語", "x", "five", "six"],
        "label": ["k", "k", "l", "l", "l", "k"],
        "group": ["p", "p", "q", "q", "q", "p"],
    }


def _csv(columns, separator=","):
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator)
    writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return file.getvalue().encode("utf-8", "surrogatepass")


def _parquet(columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def _lines(columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@functools.cache
def tables():
    """Bytes of whole files by kind of examples and suffix."""
    found = {}
    for kind, columns in (("series", series_columns()), ("text", text_columns())):
        found[kind] = {".csv": _csv(columns), ".parquet": _parquet(columns)}
    found["text"] |= {".tsv": _csv(text_columns(), "\t"), ".jsonl": _lines(text_columns())}
    return found


def _content(draw, broken, kind, suffix):
    """A file with broken bytes, or a .csv file with wrong cells."""
    whole = tables()[kind]
    if suffix != ".csv" or draw(st.booleans()):
        other = draw(st.sampled_from(sorted(whole)))
        return broken(draw, whole[suffix], whole[other])
    columns = series_columns() if kind == "series" else text_columns()
    for _ in range(draw(st.integers(1, 3))):
        name, row = draw(st.sampled_from(sorted(columns))), draw(st.integers(0, 5))
        columns[name][row] = draw(st.sampled_from(CELLS))
    return _csv(columns, draw(st.sampled_from([",", ";", "\t"])))


def fuzz_series(draw, broken, folder):
    from cssl_jax.data.sources.series import is_series_file, open_series

    suffix = draw(st.sampled_from(sorted(tables()["series"])))
    path = folder / f"table{suffix}"
    path.write_bytes(_content(draw, broken, "series", suffix))
    is_series_file(str(path))  # answers, whatever the file holds
    source = one_message(open_series, path)
    values, length = source.examples["values"], source.examples["length"]
    assert values.dtype == np.float32
    assert 1 <= length.min() <= length.max() <= values.shape[1]
    assert not np.isinf(values).any()
    for column in (source.labels, source.groups, source.names):
        assert column is None or len(column) == len(values)


def fuzz_text(draw, broken, folder):
    from cssl_jax.data.sources.text import is_text_file, open_text

    suffix = draw(st.sampled_from(sorted(tables()["text"])))
    path = folder / f"table{suffix}"
    path.write_bytes(_content(draw, broken, "text", suffix))
    is_text_file(str(path))
    source = one_message(open_text, path)
    for texts in source.examples.values():
        assert len(texts) == len(source)
        assert all(isinstance(text, str) and text.strip() for text in texts)
        assert "".join(texts).encode()  # no lone surrogate
    for column in (source.labels, source.groups):
        assert column is None or len(column) == len(source)
