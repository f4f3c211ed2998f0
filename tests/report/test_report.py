"""The report: its content equals the run's logs, and no name or damaged run can break it."""

import base64
import dataclasses
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import PIL.Image
import pytest
import sklearn.linear_model

import cssl_jax
from cssl_jax.cli import main as cli
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.errors import UserError
from cssl_jax.evaluate.results import Results
from cssl_jax.report import html_data
from cssl_jax.report.escape import printable
from cssl_jax.report.figures import gallery, plots, projections
from cssl_jax.report.figures.thumbnails import make_sprite
from cssl_jax.report.run_reader import open_run
from cssl_jax.report.write import write_report
from helpers import tiny
from tests.helpers.marks import fast

# A file name cannot contain a slash, so "</script>" is tested with json_for_script alone.
CLASSES = ("<img src=x onerror=alert(1)>", "\"quoted\" & 'so'", "$x_1$ {{7*7}}")


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    source = tiny.image_source(90)
    for i, (image, label) in enumerate(zip(source.images, source.labels, strict=True)):
        class_folder = folder / CLASSES[label]
        class_folder.mkdir(exist_ok=True)
        PIL.Image.fromarray(image[..., 0]).save(class_folder / f"<b>{i}&b.png")
    return folder


def configured(source):
    config = tiny.config(epochs=2, evaluate_every=1)
    config = tiny.replace(config, "evaluate", knn_k=5, batch_size=16)
    options = {"source": str(source), "validation_fraction": 0.4, "size": 8, "min_side": 1}
    return tiny.replace(config, "data", **options)


@pytest.fixture(scope="module")
def run(image_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / 'labelled <b>"run"'
    config = configured(image_folder)
    cssl_jax.pretrain(tiny.replace(config, "data", channels=1), folder)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A run without labels."""
    folder = tmp_path_factory.mktemp("bare")
    np.savez(folder / "bare.npz", images=tiny.image_source(60).images)
    cssl_jax.pretrain(configured(folder / "bare.npz"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    return write_report([run], tmp_path_factory.mktemp("report") / "report.html")


class Reader(html.parser.HTMLParser):
    """Attributes and text of a page, and separately its scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.attributes, self.words, self.scripts, self.styles = [], [], [], []
        self._inside = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        inside = self._inside[-1] if self._inside else ""
        kinds = {"script": self.scripts, "style": self.styles}
        kinds.get(inside, self.words).append(data)

    @property
    def data(self):
        return json.loads(self.scripts[0])

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read(path):
    return Reader(path.read_text())


def test_the_page_has_no_external_reference(report):
    page = read(report)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert value.startswith(("data:", "#")), (tag, name, value[:80])
        assert "http" not in (value or "")
    for style in page.styles:
        assert set(re.findall(r"url\((\w+:)", style)) <= {"data:"}
        assert "@import" not in style
    # The SVG namespace looks like an address but is only a name.
    script = page.scripts[1].replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//\w+\.|fetch\(|XMLHttp|WebSocket|import\(|eval\(", script)
    # The browser enforces it too.
    assert any("default-src 'none'" in (value or "") for _, _, value in page.attributes)


def test_names_stay_text_in_the_page_and_are_unchanged_in_its_data(report, image_folder):
    page = read(report)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert not [a for a in page.attributes if a == ("img", "src", "x")]
    assert "b" not in {tag for tag, *_ in page.attributes}
    (map_data,) = page.data["maps"]
    assert map_data["classes"] == sorted(CLASSES)
    names = {path.name for path in image_folder.rglob("*.png")}
    assert set(map_data["names"]) <= names
    assert 'labelled <b>"run"' in page.text


def test_classes_are_named_by_their_folders_if_each_has_its_own():
    images, labels = np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 1, 0])

    def named(*names):
        return gallery.class_names(ArraySource("x", images, labels, np.array(names)))

    assert named("cat/1.png", "dog/1.png", "dog/b/2.png", "cat/2.png") == ["cat", "dog"]
    assert named("cat/1.png", "dog/1.png", "cat/2.png", "cat/3.png") == ["0", "1"]
    assert named("1.png", "2.png", "3.png", "4.png") == ["0", "1"]
    assert gallery.class_names(ArraySource("x", images, labels)) == ["0", "1"]
    assert gallery.class_names(ArraySource("x", images)) == []


def test_json_cannot_close_its_script_element():
    hostile = {"a": "</script><script>alert(1)</script><!-- \u2028 & ' \" \\"}
    text = html_data.json_for_script(hostile)
    assert not re.search(r"[<>&\u2028]", text)
    assert json.loads(text) == hostile


def test_undecodable_bytes_of_file_names_are_shown_as_escapes():
    assert printable("caf\udce9.jpg") == r"caf\xe9.jpg"
    assert printable("café") == "café"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_parses(report, tmp_path):
    (tmp_path / "script.js").write_text(read(report).scripts[1])
    subprocess.run(["node", "--check", tmp_path / "script.js"], check=True)


def test_the_page_has_every_section_and_the_metrics_of_the_run(report, run):
    page, results = read(report), json.loads((run / "results.json").read_text())
    headings = ("Summary", "Curves", "Feature map", "Nearest neighbours", "Confusion matrix")
    for heading in (*headings, "Views", "Config", "Environment and command"):
        assert heading in page.text
    for row in (results, results["random_init"], results["pixels"]):
        for protocol in ("knn", "linear"):
            assert f"{100 * row[protocol]['top1']:.1f} %" in page.text
    for verdict in open_run(run).verdicts:
        assert verdict.title in page.text
        assert verdict.detail in page.text
    assert "cssl-jax pretrain" in page.text
    assert "devices 2 x cpu (cpu)" in page.text
    titles = [chart["series"][0]["label"] for chart in page.data["charts"]]
    assert {"loss", "RankMe", "kNN top-1"} <= set(titles)


def test_the_map_has_every_validation_image_with_its_label_and_thumbnail(report, run):
    (map_data,) = read(report).data["maps"]
    config = open_run(run).config
    _, validation = cssl_jax.experiment.data_splits.load_data(config)
    assert map_data["labels"] == validation.labels.tolist()
    uri = re.search(r"\.s0\{[^}]*url\(data:image/webp;base64,([^)]*)\)", report.read_text())
    sheet = PIL.Image.open(io.BytesIO(base64.b64decode(uri[1]))).convert("L")
    for i in range(len(validation)):
        top, left = divmod(i, map_data["columns"])
        box = tuple(map_data["side"] * edge for edge in (left, top, left + 1, top + 1))
        np.testing.assert_array_equal(sheet.crop(box), validation.image(i)[..., 0])
    limit = html_data.MAX_COORDINATE
    for projection in map_data["places"].values():
        numbers = np.array(projection["points"]).reshape(-1, 2)
        assert numbers.shape == (len(validation), 2)
        assert numbers.min() >= 0
        assert numbers.max() <= limit
        assert np.ptp(numbers, axis=0).max() == pytest.approx(limit, abs=1)


def test_markdown_has_the_same_tables_and_its_figures_exist(report, run):
    text = report.with_suffix(".md").read_text()
    results = json.loads((run / "results.json").read_text())
    top1 = f"{100 * results['knn']['top1']:.1f} %"
    assert re.search(rf"^\| trained encoder \|.*{top1}", text, re.MULTILINE)
    prose = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)  # an indented command is literal
    assert "<b>" not in prose
    links = re.findall(r"!\[[^\]]*\]\(<([^>]*)>\)", text)
    kinds = ("curves", "pca", "tsne", "neighbours", "confusion", "views")
    assert [pathlib.Path(link).stem for link in links] == list(kinds)
    for link in links:
        with PIL.Image.open(report.parent / link) as image:
            assert image.format == "PNG"
            assert min(image.size) > 200


def test_a_run_without_a_checkpoint_shows_its_curves_and_the_reason(run, tmp_path):
    young = tmp_path / "young"
    shutil.copytree(run, young)
    shutil.rmtree(young / "checkpoints")
    (young / "results.json").unlink()
    with (young / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "loss"')  # an incomplete line, as of a run that is writing it
    page = read(write_report([young], tmp_path / "report.html", figures=False))
    assert "not finished" in page.text
    assert re.search(r"Not shown: maps, neighbours, confusion matrix: .* no checkpoint", page.text)
    assert page.data["maps"] == []
    assert page.data["charts"]
    assert "Feature map" not in page.text.replace("Not shown", "")


def test_the_report_names_missing_data_of_a_run(run, tmp_path):
    orphan = tmp_path / "orphan"
    shutil.copytree(run, orphan)
    config = json.loads((orphan / "config.json").read_text())
    config["data"]["source"] = str(tmp_path / "gone")
    (orphan / "config.json").write_text(json.dumps(config))
    page = read(write_report([orphan], tmp_path / "report.html", figures=False, images=0))
    assert "--images is 0" in page.text
    page = read(write_report([orphan], tmp_path / "report.html", figures=False))
    assert re.search(r"Not shown: views: .*gone.* does not exist", page.text)


@pytest.mark.slow
def test_without_labels_there_is_no_legend_and_no_confusion_matrix(bare, tmp_path):
    page = read(write_report([bare], tmp_path / "report.html"))
    (map_data,) = page.data["maps"]
    assert map_data["labels"] is None
    assert map_data["classes"] == []
    assert "Confusion matrix" not in page.text
    assert "view retrieval" in page.text
    assert not list((tmp_path / "report_figures").glob("confusion*"))


@pytest.mark.slow
def test_runs_of_the_same_images_share_one_sprite(run, bare, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    path = write_report([run, bare, copy], tmp_path / "report.html", figures=False)
    page = read(path)
    assert [map_data["sprite"] for map_data in page.data["maps"]] == [0, 1, 0]
    assert path.read_text().count("image/webp") == 2  # two sprites
    assert path.read_text().count("image/jpeg") == 3  # one sheet of views per run
    loss = page.data["charts"][0]
    labels = [series["label"] for series in loss["series"]]
    assert [name for name in labels if "chance" not in name] == [run.name, "run", "copy"]
    with pytest.raises(UserError, match="is named twice"):
        write_report([run, run], tmp_path / "report.html")


def test_the_confusion_matrix_is_scikit_learns(run):
    opened = open_run(run)
    images, encoder = gallery.open_gallery(opened, images=1000)
    confusion = gallery.confusion(opened, images, encoder, 1000)
    train, validation = cssl_jax.experiment.data_splits.load_data(opened.config)
    x, y = (np.float64(encoder.embed(split)) for split in (train, validation))
    mean, std = x.mean(axis=0), x.std(axis=0)
    x, y = (x - mean) / std, (y - mean) / std
    # scikit-learn minimises C sum(losses) + |W|^2 / 2, the probe mean(losses) + l2 |W|^2 / 2.
    strength = 1 / (len(x) * opened.results.linear.l2)
    probe = sklearn.linear_model.LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
    predicted = probe.fit(x, train.labels).predict(y)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (validation.labels, predicted), 1)
    # Rounding may change the class of one image on a decision boundary: two counts differ then.
    assert np.abs(confusion.counts - expected).sum() <= 2
    assert confusion.counts.sum() == len(validation)
    assert np.trace(confusion.counts) / len(validation) == pytest.approx(
        opened.results.linear.top1, abs=1 / len(validation) + 1e-6
    )


def test_a_confusion_matrix_in_the_results_is_used_unchanged(run):
    opened = open_run(run)
    linear = {**opened.results.linear, "confusion": [[3, 1], [0, 4]]}
    results = Results.from_json({**opened.results, "linear": linear})
    opened = dataclasses.replace(opened, results=results)
    images, encoder = gallery.open_gallery(opened, images=1000)
    confusion = gallery.confusion(opened, images, encoder, 1000)
    np.testing.assert_array_equal(confusion.counts, [[3, 1], [0, 4]])


def test_a_large_validation_split_is_reduced_to_a_subset(run):
    images, _ = gallery.open_gallery(open_run(run), images=12)
    assert len(images) == 12
    assert images.total == 36
    assert len(set(images.names)) == 12


@pytest.mark.parametrize(("height", "width"), [(8, 8), (20, 32), (100, 60)])
def test_thumbnails_keep_small_images_and_reduce_large_ones(height, width):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, height, width, 3)).astype(np.uint8)
    sprite = make_sprite(ArraySource("noise", images))
    assert sprite.count == 5
    assert sprite.side == (max(height, width) if max(height, width) <= 32 else 48)
    for i, image in enumerate(images):
        tile = np.asarray(sprite.tile(i), float)
        assert tile.shape == (sprite.side, sprite.side, 3)
        inside = tile[tile.sum(axis=(1, 2)) > 0][:, tile.sum(axis=(0, 2)) > 0]
        if max(height, width) <= 32:
            np.testing.assert_array_equal(inside, image)
        else:
            # Reduction keeps the mean; 6,000 values of noise have an error of 74 / sqrt(6000) = 1.
            assert inside.mean() == pytest.approx(image.mean(), abs=2)


@pytest.mark.parametrize("kind", fast(plots.KINDS, ["curves", "neighbours"]))
def test_plot_draws_each_kind(run, kind, tmp_path, capsys):
    if kind == "umap" and not projections.available("umap"):
        assert cli.main(["plot", str(run), "--kind", kind, "--output", f"{tmp_path}/x.png"]) == 2
        assert "pip install umap-learn" in capsys.readouterr().err
        return
    path = tmp_path / f"{kind}.png"
    assert cli.main(["plot", str(run), "--kind", kind, "--output", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(10**6) or range(100)) > 3  # the plot is not blank


def test_report_from_the_command_line(run, capsys):
    assert cli.main(["report", str(run), "--images", "20", "--no-figures"]) == 0
    captured = capsys.readouterr()
    assert f"{run / 'report.html'} (" in captured.out
    assert (run / "report.md").is_file()
    assert "t-SNE ..." in captured.err
    for verdict in open_run(run).verdicts:
        assert verdict.title in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nowhere"], "nowhere is no run folder"),
        (["report", "RUN", "--output", "x.pdf"], "must end in .html"),
        (["report", "RUN", "--output", "no/x.html"], "the folder does not exist"),
        (["report", "RUN", "--images", "-1"], "-1 images; give 0 to"),
        (["plot", "nowhere", "--output", "x.png"], "nowhere is no run folder"),
        (["plot", "RUN", "--output", "x.jpg"], "must end in .png"),
        (["plot", "RUN", "--output", "x.png", "--images", "0"], "0 images; give 1 to"),
    ],
)
def test_wrong_options_print_one_line(arguments, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [str(run) if word == "RUN" else word for word in arguments]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_error_for_a_missing_package_names_the_install_command(run, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "available", lambda: False)
    with pytest.raises(UserError, match=r'pip install "cssl-jax\[report\]"'):
        plots.draw(run, "curves")
    path = write_report([run], tmp_path / "report.html", images=0)
    assert "matplotlib is not installed" in path.with_suffix(".md").read_text()
