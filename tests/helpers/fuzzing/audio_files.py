"""Sets of recordings: files that are broken, and lists of them."""

import functools
import io

import numpy as np
import soundfile
from hypothesis import strategies as st

from helpers.fuzzing.contract import REASONS, one_message

KINDS = {
    "wav": [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAVEX", "PCM_U8")],
    "flac": [("FLAC", "PCM_16")],
    "ogg": [("OGG", "VORBIS"), ("OGG", "OPUS")],
    "mp3": [("MP3", "MPEG_LAYER_III")],
    "aiff": [("AIFF", "PCM_16")],
}
RATE = 8000


@functools.cache
def recordings():
    """Bytes of whole files by suffix."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (800, 2))
    found = {}
    for suffix, kinds in KINDS.items():
        found[suffix] = []
        for kind, subtype in kinds:
            file = io.BytesIO()
            soundfile.write(file, samples, RATE, subtype, format=kind)
            found[suffix].append(file.getvalue())
    return found


def fuzz_audio(draw, broken, folder):
    from cssl_jax.data.sources.audio import decode_files, open_audio

    root, files = folder / "recordings", recordings()
    root.mkdir()
    good = files["wav"][0]
    (root / "good.wav").write_bytes(good)
    names = sorted(files)
    for number in range(draw(st.integers(1, 3))):
        kind, suffix = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        content = draw(st.sampled_from(files[kind]))
        (root / f"{number}.{suffix}").write_bytes(broken(draw, content, good))
    source = str(root)
    if draw(st.booleans()):
        rows = b"path,label,group\n" + b"".join(
            f"{path.name},a,b\n".encode() for path in sorted(root.iterdir())
        )
        (root / "list.csv").write_bytes(broken(draw, rows, b"path\ngood.wav\n"))
        source = str(root / "list.csv")
    decoded = one_message(decode_files, source, rate=RATE)
    missing = [
        name
        for name, one in zip(decoded.records.names, decoded.recordings, strict=True)
        if one is None
    ]
    assert sorted(missing) == sorted(name for name, _, _ in decoded.rejected)
    assert {reason for _, reason, _ in decoded.rejected} <= REASONS
    opened = one_message(open_audio, source, rate=RATE, clip_seconds=0.05, max_rejected=1.0)
    assert opened.examples["wave"].dtype == np.int16
    assert opened.examples["length"].min() >= 1
