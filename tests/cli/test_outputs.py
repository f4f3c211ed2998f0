"""Files that a user names to be written: links, pipes, devices, descriptors, full disks and "-"."""

import csv
import json
import os
import pathlib
import re
import resource
import stat
import subprocess
import sys
import threading

import numpy as np
import PIL.Image
import pytest

from cssl_jax import files, outputs
from cssl_jax.cli import main as cli
from cssl_jax.data.formats.image_folder import open_list
from cssl_jax.errors import UserError

FULL = pathlib.Path("/dev/full")


@pytest.fixture
def images(tmp_path):
    """A folder of three images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        PIL.Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_takes_the_file_and_nothing_else(images, name, capfd, monkeypatch):
    monkeypatch.chdir(images.parent)
    before = os.lstat("/dev/stdout")
    assert cli.main(["data", "check", str(images), "--json", name]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["pictures"] == 3
    assert "3 images" in err  # the report
    assert os.lstat("/dev/stdout").st_ino == before.st_ino
    assert not (images.parent / "-").exists()


@pytest.mark.slow
def test_standard_output_that_is_a_file_keeps_what_was_in_it(images, tmp_path):
    target = tmp_path / "all.txt"
    target.write_text("first\n")
    with target.open("a") as file:
        command = [sys.executable, "-m", "cssl_jax", "data", "check", str(images), "--json"]
        subprocess.run([*command, "/dev/stdout"], stdout=file, check=True)
    first, _, rest = target.read_text().partition("\n")
    assert first == "first"
    assert json.loads(rest)["pictures"] == 3


def test_one_standard_output_is_not_given_to_two_files(images, capsys):
    assert cli.main(["data", "check", str(images), "--json", "-", "--rejected", "-"]) == 2
    assert "two outputs are standard output" in capsys.readouterr().err


@pytest.mark.slow
def test_a_command_of_the_shell_reads_the_file(images, tmp_path):
    command = f"{sys.executable} -m cssl_jax data check {images} --json >(cat > copy.json)"
    command = ["bash", "-c", f"{command}; sleep 0.3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "copy.json").read_text())["pictures"] == 3


def test_links_stay_and_what_they_lead_to_is_written(images, tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "real.json", tmp_path / "link.json"
    link.symlink_to("there/real.json")  # to nothing yet
    for _ in range(2):
        assert cli.main(["data", "check", str(images), "--json", str(link)]) == 0
        assert link.is_symlink()
        assert json.loads(target.read_text())["pictures"] == 3
    assert os.listdir(tmp_path / "there") == ["real.json"]


def test_every_writer_of_whole_files_follows_links_and_keeps_permissions(tmp_path):
    target, link = tmp_path / "real", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    for write in (
        lambda: files.write_json(link, {"a": 1}),
        lambda: files.write_text(link, '{"a": 1}'),
        lambda: outputs.write_output(link, b'{"a": 1}'),
    ):
        write()
        assert link.is_symlink()
        assert json.loads(target.read_text()) == {"a": 1}
        assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_pipes_and_devices_are_written_directly(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    outputs.check_output(pipe, ".npz")  # a suffix is for regular files
    with outputs.open_output(pipe) as file:
        np.savez(file, features=np.arange(3.0))
    reader.join()
    (tmp_path / "a.npz").write_bytes(read[0])
    assert np.load(tmp_path / "a.npz")["features"].tolist() == [0.0, 1.0, 2.0]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    before = os.stat(os.devnull)
    outputs.write_output(pathlib.Path(os.devnull), "gone")
    assert os.stat(os.devnull).st_rdev == before.st_rdev


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_device_that_is_full_is_one_message_with_its_name(images, capsys):
    assert cli.main(["data", "check", str(images), "--json", str(FULL)]) == 2
    assert capsys.readouterr().err == (
        "cssl-jax data check: cannot write /dev/full: No space left on device; make room or get "
        "write access, or name another file\n"
    )
    with FULL.open("w") as file:
        command = [sys.executable, "-m", "cssl_jax", "recipes"]
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("cssl-jax recipes: No space left on device")
    assert "None" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def little_room():
    """Files of at most 1,000 bytes; a longer write fails, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["arrays", "image", "text"])
def test_a_disk_without_room_leaves_the_old_file_and_no_half(tmp_path, little_room, kind):
    path = tmp_path / "a.npz"
    path.write_text("old")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)

    def write():
        if kind == "arrays":
            with outputs.open_output(path) as file:
                np.savez(file, features=noise)
        elif kind == "image":
            outputs.write_png(path, PIL.Image.fromarray(noise))
        else:
            outputs.write_output(path, "x" * 5000)

    with pytest.raises(UserError, match=rf"^cannot write {path}: File too large; make room"):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.npz"]
    with pytest.raises(OSError, match="File too large") as caught:
        files.write_bytes(path, noise.tobytes())
    assert caught.value.filename == str(path)  # not a temporary name


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def write():
        with outputs.open_output(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_name_of_the_longest_length_can_be_written(tmp_path):
    path = tmp_path / ("ä" * 125 + ".json")  # 255 bytes, the limit of most file systems
    files.write_text(path, "{}")
    assert path.read_text() == "{}"


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    for path, message in (
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "no" / "a.json", "the folder does not exist; create it first"),
        (tmp_path / "a.csv", "must end in .json"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            outputs.check_output(path, ".json", option="--json")


def test_only_one_module_writes_where_a_user_says():
    """Each command passes its paths through ``outputs``: no writer of another kind is imported."""
    package = pathlib.Path(outputs.__file__).parent
    paths = sorted((package / "cli" / "commands").glob("*.py"))
    assert len(paths) > 10
    for path in paths:
        code = path.read_text()
        assert not re.search(r"\bwrite_(bytes|text|json|rejected)\(", code), path
        assert not re.search(r"np\.savez\w*\((?!file\b)|\.save\((?!content\b)", code), path


def test_json_holds_no_nan_and_no_infinity(tmp_path):
    content = {
        "a": float("nan"),
        "b": [1.5, np.float32("inf"), {"c": (-np.inf, 2)}],
        "d": np.float64(0.25),
        "e": np.int64(3),
    }
    files.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()

    def refuse(word):
        raise AssertionError(word)

    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": 0.25, "e": 3}


NAMES = ["a\rb.png", "a\nb.png", '"q".png', "a,b.png", "=1+1.png", "@cmd.png", "-5.png", "ü.png"]


def test_lists_hold_any_name_and_no_formula(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_bytes(b"")
    rows = [(name, str(i), f"={name}") for i, name in enumerate(NAMES)]
    table = tmp_path / "list.csv"
    files.write_text(table, files.csv_text([("path", "label", "class"), *rows]))
    records = open_list(table)
    assert list(records.names) == NAMES
    assert list(records.labels) == list(range(len(NAMES)))
    assert list(records.classes) == [f"={name}" for name in NAMES]
    with table.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    for cell in cells:
        assert cell[:1] not in tuple("=+@"), cell
    text = files.csv_text([(-1, -0.5, "-1e-3", "-x", None, 3.0)])
    assert text == "-1,-0.5,-1e-3,'-x,,3.0\n"  # numbers stay numbers


def test_what_the_package_writes_as_csv_goes_through_one_function():
    package = pathlib.Path(outputs.__file__).parent
    for path in package.rglob("*.py"):
        assert not re.search(r"csv\.(writer|DictWriter)\(", path.read_text()), path


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--help", "pretrain --help", "recipes"])
def test_a_reader_that_closes_the_pipe_causes_no_message(words):
    command = f"{sys.executable} -m cssl_jax {words} | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
