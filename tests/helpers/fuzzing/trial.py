"""Many examples of every reader in this process, whose memory and time are limited."""

import faulthandler
import functools
import math
import os
import pathlib
import resource
import shutil
import tempfile

import hypothesis
from hypothesis import strategies as st

from helpers.fuzzing import audio_files, readers, samples, tables, texts, weights
from helpers.fuzzing.contract import RefusedError
from helpers.fuzzing.mutations import broken
from helpers.fuzzing.tfds_samples import prepared_sets

HANG = 60  # seconds that no example takes, on a busy machine either
ROOM = 3 * 2**30  # bytes of address space beyond what is mapped before the first example

FUZZERS = {
    "folder": readers.fuzz_folder, "tar": readers.fuzz_tar, "parquet": readers.fuzz_parquet,
    "tfrecord": readers.fuzz_tfrecord, "npz": readers.fuzz_npz, "list": readers.fuzz_list,
    "config": texts.fuzz_config, "options": texts.fuzz_options, "run": texts.fuzz_run,
    "tfds": readers.fuzz_tfds, "masks": readers.fuzz_masks, "labels": readers.fuzz_labels,
    "resume": texts.fuzz_resume, "audio": audio_files.fuzz_audio,
    "series": tables.fuzz_series, "text": tables.fuzz_text,
    "safetensors": weights.fuzz_safetensors, "pytorch": weights.fuzz_pytorch,
    "checkpoint": weights.fuzz_tf_checkpoint,
}  # fmt: skip
# Images are the largest part of what can go wrong.
SHARES = [*FUZZERS, "folder", "folder", "folder", "tar", "parquet", "npz"]


def prepare(with_tfds):
    """Makes all samples beforehand: their memory is none of a reader's."""
    made = (audio_files.recordings, samples.torch_files, samples.safetensors_files)
    made += (samples.tf_checkpoints,)
    sets = (samples.tars, samples.parquets, samples.npzs)
    for make in (*sets, *made, tables.tables, samples.configs, texts.option_names):
        make()
    texts.resumed()
    if with_tfds:
        prepared_sets()


def check_whole_files(shares, folder):
    """What is not broken is read: else the rest would show nothing."""

    def whole(draw, content, other):
        return content

    for name in set(shares) - {"options"}:
        for turn in range(2):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            FUZZERS[name](functools.partial(first, turn=turn), whole, folder)


def first(strategy, turn):
    """The first or second of what may be chosen, without Hypothesis."""
    if isinstance(strategy, type(st.sampled_from([0, 1]))):
        return strategy.elements[turn % len(strategy.elements)]
    return True


def try_reader(name, examples, seed, root, ends):
    """Counts in ``ends`` how many were read, and how many refused."""
    outside = root / "outside"
    folder = outside / "inside"

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=True,
    )
    @hypothesis.given(st.data())
    def one(data):
        shutil.rmtree(outside, ignore_errors=True)
        folder.mkdir(parents=True)
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            FUZZERS[name](data.draw, broken, folder)
            ends[0] += 1
        except RefusedError:
            ends[1] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()
        assert listing(outside) == [str(folder)]
        assert {path.name for path in root.iterdir()} <= {"outside", "cache"}

    one()


def listing(folder):
    return sorted(str(path) for path in folder.iterdir())


def run(count, seed, only=()):
    """Raises at the first example, made as small as it goes, that ends as none should."""
    shares = [name for name in SHARES if not only or name in only]
    prepare("tfds" in shares)
    ends = {name: [0, 0] for name in FUZZERS}
    root = pathlib.Path(tempfile.mkdtemp(prefix="cssl-fuzz-"))
    os.environ["CSSL_JAX_CACHE"] = str(root / "cache")
    check_whole_files(shares, root / "outside" / "inside")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    mapped = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM, mapped + ROOM))

    try:
        for name in sorted(set(shares)):
            examples = math.ceil(count * shares.count(name) / len(shares))
            try_reader(name, examples, seed, root, ends[name])
    finally:
        shutil.rmtree(root, ignore_errors=True)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return ends, grown
