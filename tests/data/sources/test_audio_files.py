"""Audio files: what is decoded, resampled, mixed, cut, excluded and refused."""

import importlib.util
import io
import wave

import numpy as np
import pytest

from cssl_jax.data.sources import audio, audio_decode
from cssl_jax.data.sources.audio import is_audio_source, open_audio
from cssl_jax.data.sources.audio_decode import decode
from cssl_jax.errors import MissingDataError, UserError
from helpers import recordings

soundfile = pytest.importorskip("soundfile")
RATE = recordings.RATE


def wav(samples, width=2, rate=RATE):
    """Bytes of a WAV file of whole numbers [T, channels], ``width`` bytes each."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        wide = samples.astype("<i4").reshape(-1, 1).view(np.uint8)[:, :width]
        file.writeframes((wide ^ 128 if width == 1 else wide).tobytes())
    return content.getvalue()


def numbers(width, channels=2, size=200):
    top = 2 ** (8 * width - 1)
    return np.random.default_rng(0).integers(-top, top, (size, channels))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_the_standard_library_and_soundfile_give_the_same_samples(width, monkeypatch):
    content = wav(numbers(width), width)
    found = decode(content, RATE)
    monkeypatch.setattr(audio_decode, "_optional", lambda name: None)
    again = decode(content, RATE)
    np.testing.assert_array_equal(found.samples, again.samples)
    assert found[1:] == again[1:] == (RATE, 2, found.clipped)
    expected = numbers(width).mean(axis=1) / 2 ** (8 * width - 1) * 2**15
    assert np.abs(found.samples - expected).max() <= 0.51  # rounding of the mean to 16 bits


def test_one_channel_of_16_bits_is_kept_to_the_bit():
    samples = numbers(2, channels=1)
    np.testing.assert_array_equal(decode(wav(samples), RATE).samples, samples[:, 0])


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3", "AIFF"])
def test_other_kinds_of_files_are_read(kind):
    rate = 16_000
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    content = io.BytesIO()
    soundfile.write(content, tone, rate, format=kind)
    found = decode(content.getvalue(), rate)
    spectrum = np.abs(np.fft.rfft(found.samples[:rate]))
    assert spectrum.argmax() == pytest.approx(440, abs=1)
    assert found.samples.std() / 2**15 == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_a_recording_is_resampled_without_a_change_of_pitch():
    pytest.importorskip("soxr")
    tone = np.int16(8000 * np.sin(2 * np.pi * 500 * np.arange(8000) / 8000))
    found = decode(wav(tone[:, None], rate=8000), 4000).samples
    assert len(found) == 4000
    expected = 8000 * np.sin(2 * np.pi * 500 * np.arange(4000) / 4000)
    # Away from the ends, which the filter reaches beyond.
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=8)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(audio_decode, "_optional", lambda name: None)
    with pytest.raises(UserError, match=r"need the package soundfile.*pip install 'cssl-jax"):
        decode(b"fLaC....", RATE)
    with pytest.raises(UserError, match=rf"soxr, which is not installed.* --data.rate {RATE}"):
        decode(wav(numbers(2)), 16_000)
    assert importlib.util.find_spec("soundfile")  # the test above it had a reason


@pytest.mark.parametrize("content", [b"RIFF", b"RIFF\0\0\0\0WAVEfmt ", wav(numbers(2))[:60], b"x"])
def test_a_broken_file_is_a_value_error_of_one_kind(content):
    with pytest.raises(ValueError, match=r".+"):
        decode(content[:44], RATE)


def test_a_rate_that_would_make_a_recording_endless_is_refused():
    content = wav(numbers(2, channels=1, size=20_000), rate=1)
    with pytest.raises(ValueError, match="more than 268,435,456 samples"):
        decode(content, 16_000)


def test_a_folder_has_labels_by_sub_folder_and_a_list_of_what_is_excluded(tmp_path):
    for number, tone in enumerate(recordings.tones(12)):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.wav").write_bytes(wav(tone[:, None]))
    (tmp_path / "a" / "copy.wav").write_bytes((tmp_path / "a" / "0.wav").read_bytes())
    (tmp_path / "b" / "broken.flac").write_bytes(b"fLaC")
    (tmp_path / "b" / "empty.wav").write_bytes(b"")
    (tmp_path / "b" / "notes.m4a").write_bytes(b"")
    found = open_audio(tmp_path, rate=RATE, clip_seconds=1.0, max_rejected=0.5)
    assert (found.classes, found.labels.tolist()) == (("a", "b"), [0] * 6 + [1] * 6)
    assert [(name, reason) for name, reason, _ in found.rejected] == [
        ("a/copy.wav", "duplicate"),
        ("b/broken.flac", "unreadable"),
        ("b/empty.wav", "empty"),
    ]
    assert any("1 .m4a" in note for note in found.notes)
    assert found.groups is None
    with pytest.raises(UserError, match=r"3 of 15 recordings cannot be used, such as a/copy.wav"):
        open_audio(tmp_path, rate=RATE, clip_seconds=1.0)
    assert is_audio_source(str(tmp_path))


def test_a_list_has_labels_and_groups(tmp_path):
    path = recordings.write(tmp_path, 20, groups=True)
    found = open_audio(path, rate=RATE, clip_seconds=1.0)
    expected = recordings.source(20, groups=True)
    np.testing.assert_array_equal(found.examples["wave"], expected.examples["wave"])
    np.testing.assert_array_equal(found.examples["length"], expected.examples["length"])
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.groups, expected.groups)
    assert found.rate == RATE
    assert open_audio(path, rate=RATE, clip_seconds=1.0, labels="none").labels is None
    assert is_audio_source(path)


def test_a_long_recording_is_several_examples_of_one_group(tmp_path):
    samples = numbers(2, channels=1, size=1000)
    (tmp_path / "long.wav").write_bytes(wav(samples))
    (tmp_path / "short.wav").write_bytes(wav(samples[:150]))
    found = open_audio(tmp_path, rate=RATE, clip_seconds=300 / RATE)
    # The rest of 100 samples is less than half a clip.
    assert found.examples["length"].tolist() == [300, 300, 300, 150]
    np.testing.assert_array_equal(found.examples["wave"][1], samples[300:600, 0])
    assert found.names.tolist() == [
        *("long.wav@0s", "long.wav@0.075s", "long.wav@0.15s"),
        "short.wav",
    ]
    assert found.groups.tolist() == ["long.wav"] * 3 + ["short.wav"]


def test_sources_that_are_no_recordings_are_refused(tmp_path):
    with pytest.raises(MissingDataError, match="does not exist; give a folder of recordings"):
        audio.open_records(tmp_path / "none")
    with pytest.raises(UserError, match=r"contains no recordings \(.wav"):
        audio.open_records(tmp_path)
    (tmp_path / "x.npz").write_bytes(b"")
    with pytest.raises(UserError, match="is no set of recordings"):
        audio.open_records(tmp_path / "x.npz")
    (tmp_path / "x.wav").write_bytes(wav(numbers(2)))
    (tmp_path / "y.wav").write_bytes(wav(numbers(2)))
    (tmp_path / "list.csv").write_text("path,speaker\nx.wav,ann\ny.wav,\n")
    with pytest.raises(UserError, match=r"y\.wav has no group"):
        audio.open_records(tmp_path / "list.csv")
    (tmp_path / "images.csv").write_text("path\nx.npz\n")
    assert not is_audio_source(str(tmp_path / "images.csv"))
    assert not is_audio_source("digits")
