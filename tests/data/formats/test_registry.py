"""The registry of formats: a new format is one entry, found by scheme, suffix and content."""

import shutil

import numpy as np
import pytest

from cssl_jax.cli import main as cli
from cssl_jax.cli.call import split
from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.registry import FORMATS, format_entries
from cssl_jax.data.sources.open import absolute_spec, load_source, open_records
from cssl_jax.errors import UserError
from cssl_jax.registries import trusted_code, trusting_code
from helpers import zip_format


@pytest.fixture
def zip_in_formats():
    before = dict(FORMATS)
    FORMATS.clear()
    FORMATS.update({"zip": zip_format.FORMAT, **before})
    yield
    FORMATS.clear()
    FORMATS.update(before)


def test_a_new_format_is_found_by_suffix_scheme_and_content(zip_in_formats, tmp_path, monkeypatch):
    images = zip_format.write_zip(tmp_path / "all.zip")
    options = ImageOptions(channels=1, min_side=1)
    monkeypatch.chdir(tmp_path)
    for spec in (str(tmp_path / "all.zip"), absolute_spec("zip:all.zip"), str(tmp_path)):
        source = load_source(spec, options)
        assert len(source) == 3
        np.testing.assert_array_equal(source.image(1)[..., 0], images[1])
    with pytest.raises(UserError, match=r"give 'digits', .* a \.zip file, .* or a fold"):
        open_records(tmp_path / "none", options)


def test_every_format_but_the_last_recognises_only_its_own_folders(tmp_path):
    *others, folder = format_entries()
    assert not any(entry.recognises(tmp_path) for entry in others)
    assert folder.recognises(tmp_path)


OPTIONS = ImageOptions(channels=1, min_side=1)


@pytest.fixture
def own_format(tmp_path, monkeypatch):
    """Working directory with formats in zipped.py and two images in a:b=c.zip."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(zip_format.__file__, "zipped.py")
    (tmp_path / "zipped.py").open("a").write(
        """
import dataclasses

REMOTE = dataclasses.replace(
    FORMAT,
    absolute=lambda place: place,
    open=lambda place, options: open_zip(place.removeprefix("zip://"), options),
)
OTHER = 3
"""
    )
    return zip_format.write_zip(tmp_path / "a:b=c.zip", 2)


def test_a_format_in_a_file_opens_what_follows_its_name(own_format, tmp_path, monkeypatch):
    spec = "zipped.py:FORMAT:a:b=c.zip"
    with trusting_code("zipped.py:FORMAT"):
        absolute = absolute_spec(spec)
        assert absolute == f"{tmp_path}/zipped.py:FORMAT:{tmp_path}/a:b=c.zip"
        source = load_source(spec, OPTIONS)
        np.testing.assert_array_equal(source.image(1)[..., 0], own_format[1])
        monkeypatch.chdir("/")
        assert load_source(absolute, OPTIONS).fingerprint() == source.fingerprint()


def test_a_format_in_a_file_decides_what_its_place_is(own_format):
    spec = "zipped.py:REMOTE:zip://a:b=c.zip"
    with trusting_code(spec):
        assert absolute_spec(spec).endswith("zipped.py:REMOTE:zip://a:b=c.zip")
        assert len(load_source(spec, OPTIONS)) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("zipped.py:FORMAT", r"does not say what to open; give .* zipped.py:FORMAT:my_images"),
        ("zipped.py:OTHER:a", r"OTHER is int; define OTHER = FormatEntry\(...\) in zipped.py"),
        ("none.py:FORMAT:a", "file none.py does not exist"),
    ],
)
def test_a_wrong_format_in_a_file_is_answered(own_format, spec, message):
    with trusting_code(), pytest.raises(UserError, match=message):
        load_source(spec, OPTIONS)


def test_a_format_in_a_file_runs_only_where_it_is_named_on_the_command_line(own_format, capsys):
    spec = "zipped.py:FORMAT:a:b=c.zip"
    for function in (absolute_spec, load_source):
        with pytest.raises(UserError, match="give --trust-code"):
            function(spec)
    assert cli.main(["data", "check", spec, "--channels", "1"]) == 0
    assert "2 images" in capsys.readouterr().out


def test_the_word_of_an_option_is_trusted_with_its_file_alone(own_format, tmp_path):
    call = split(["evaluate", "run", "--data.source=zipped.py:FORMAT:a:b=c.zip"])
    with call.trust:
        assert trusted_code() == {f"{tmp_path}/zipped.py"}
