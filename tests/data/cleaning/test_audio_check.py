"""`cssl-jax data check` and `data split` on recordings, and splits that keep speakers whole."""

import json
import wave

import numpy as np
import pytest

import cssl_jax
from cssl_jax.cli import main as cli
from cssl_jax.data.sources import base as sources
from cssl_jax.data.sources.audio import open_audio
from cssl_jax.errors import UserError
from helpers import recordings


def write(path, samples, rate=recordings.RATE):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())


@pytest.fixture
def listed(tmp_path):
    """20 tones of 5 speakers, one of them faster; and one silent, clipped, offset, and a copy."""
    path = recordings.write(tmp_path, 20, groups=True)
    tone = recordings.tones(1)[0].astype(float)
    write(tmp_path / "000003.wav", tone, rate=8000)
    write(tmp_path / "silent.wav", np.zeros(400))
    write(tmp_path / "clipped.wav", np.clip(9 * tone, -(2**15), 2**15 - 1))
    write(tmp_path / "offset.wav", 0.1 * tone + 2000)
    write(tmp_path / "copy.wav", recordings.tones(5)[4])
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with open(path, "a", encoding="utf-8") as file:
        for name in ("silent", "clipped", "offset", "copy", "broken"):
            file.write(f"{name}.wav,,speaker 9\n")
    return path


def test_the_report_names_rates_silence_clipping_offsets_and_copies(listed, tmp_path, capsys):
    words = ["--json", str(tmp_path / "x.json"), "--rejected", str(tmp_path / "x.csv")]
    assert cli.main(["data", "check", listed, *words]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert (found["files"], found["recordings"], found["unlabelled"]) == (25, 23, 5)
    assert found["rates"] == {"4000": 22, "8000": 1}
    assert (found["silent"], found["offset"]) == (["silent.wav"], ["offset.wav"])
    assert found["clipped"] == ["clipped.wav"]
    assert found["duplicates"] == [["000004.wav", "copy.wav"]]
    assert found["duplicates_across_groups"] == 1
    assert [row[:2] for row in found["rejected"]] == [
        ["copy.wav", "duplicate"],
        ["broken.wav", "unreadable"],
    ]
    lengths = [len(tone) / recordings.RATE for tone in recordings.tones(20)]
    assert found["seconds"][0] <= min(lengths) <= max(lengths) == found["seconds"][2]
    assert found["groups"]["speaker 0"] == 4
    text = capsys.readouterr().out
    for part in ("4000 Hz (22)", "below -60 dB of full scale: silent.wav", "6, of 4 to 5 record"):
        assert part in text
    assert "broken.wav,unreadable" in (tmp_path / "x.csv").read_text()


def test_a_split_keeps_speakers_whole_and_opens(listed, tmp_path):
    words = ["--output", str(tmp_path / "parts"), "--fractions", "0.6", "0.2", "0.2"]
    assert cli.main(["data", "split", listed, *words]) == 0
    parts = [
        open_audio(tmp_path / "parts" / f"{name}.csv", rate=4000, clip_seconds=1.0)
        for name in ("train", "validation", "test")
    ]
    assert sum(map(len, parts)) == 23
    groups = [set(part.groups.tolist()) for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 6
    with pytest.raises(UserError, match="sum to 1"):
        cssl_jax.split_audio(listed, tmp_path / "parts", fractions=(0.5, 0.1, 0.1))


def test_the_validation_split_of_a_run_holds_out_whole_speakers(listed):
    opened = open_audio(listed, rate=4000, clip_seconds=1.0, max_rejected=0.2)
    train, held = sources.split(len(opened), 0.2, 0, opened.groups)
    assert not set(opened.groups[train]) & set(opened.groups[held])
