"""The Colab notebook: sound as saved, and run where only Colab's own packages are installed."""

import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import venv

import nbformat
import pytest

from cssl_jax.report.run_reader import open_run
from helpers import compilation

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH = ROOT / "launch" / "colab.ipynb"
# Of what Colab brings, the part that the notebook meets; TensorFlow is omitted for its size, tyro
# since Colab may lack it.
PREINSTALLED = (
    *("jax[cpu]", "flax", "optax", "numpy", "scipy", "pillow", "tqdm", "matplotlib"),
    *("ipykernel", "tensorboard", "packaging"),
)


@pytest.fixture(scope="module")
def notebook():
    content = nbformat.read(PATH, as_version=4)
    nbformat.validate(content)
    return content


@pytest.fixture(scope="module")
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_saved_without_outputs(code):
    assert PATH.stat().st_size < 100_000
    assert all(cell.execution_count is None and not cell.outputs for cell in code)


def test_code_is_plain_python_of_public_names(code):
    for cell in code:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cssl_jax"):
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                assert not [name for name in names if name.startswith("_")]


def test_its_forms_ask_for_repository_and_images_and_may_stay_empty(code):
    fields = {}
    for cell in code:
        found = re.findall(r"^(\w+) = (.*?)  # @param ", cell.source, re.MULTILINE)
        assert not found or cell.metadata.get("cellView") == "form"
        fields.update({name: ast.literal_eval(value) for name, value in found})
    assert fields["REPOSITORY"] == fields["IMAGES"] == fields["KEEP_IN"] == ""


def test_jax_stays_out_of_the_notebooks_own_process(code):
    for cell in code:
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.Import) or "jax" not in [a.name for a in node.names]


def test_google_colab_is_imported_only_where_it_is_there(code):
    for cell in code:
        tree = ast.parse(cell.source)
        guarded = {
            id(node)
            for branch in ast.walk(tree)
            if isinstance(branch, ast.If) and "on_colab" in ast.unparse(branch.test)
            for node in ast.walk(branch)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("google"):
                assert id(node) in guarded


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """(a checkout, a Python with Colab's packages and without ours)."""
    folder = tmp_path_factory.mktemp("colab")
    checkout = folder / "checkout"
    for name in ("cssl_jax", "configs", "launch"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, checkout / name, ignore=skipped)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "requirements.txt", "README.md"):
        shutil.copy(ROOT / name, checkout)
    shutil.copy(ROOT / "LICENSE", checkout)
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    subprocess.run([*install, *PREINSTALLED], check=True, timeout=900)
    return checkout, python


def jax_version(python):
    script = "import importlib.metadata as m; print(m.version('jax'), m.version('jaxlib'))"
    return subprocess.check_output([python, "-c", script], text=True)


@pytest.fixture(scope="module")
def ran(notebook, colab, tmp_path_factory):
    """The notebook with its outputs, after all cells ran in its folder of the checkout."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient

    checkout, python = colab
    spec = tmp_path_factory.mktemp("kernels") / "colab"
    spec.mkdir()
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    content = {"argv": command, "display_name": "Colab", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(content))
    specs = KernelSpecManager(kernel_dirs=[str(spec.parent)], ensure_native_kernel=False)
    before = jax_version(python)
    fresh = nbformat.from_dict(notebook)
    for cell in fresh.cells:  # a user's choice in the form: the demo is trained whole, this is not
        cell.source = re.sub(r"^EPOCHS = 10 ", "EPOCHS = 2 ", cell.source, flags=re.MULTILINE)
    client = NotebookClient(
        fresh,
        km=AsyncKernelManager(kernel_name="colab", kernel_spec_manager=specs),
        timeout=1500,
        resources={"metadata": {"path": str(checkout / "launch")}},
    )
    kept = compilation.users_environment()
    inline = "module://matplotlib_inline.backend_inline"
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    client.execute(env={**kept, "MPLBACKEND": inline, "PATH": path})
    assert jax_version(python) == before
    return fresh


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_it_runs_where_only_colabs_packages_are(ran, colab, tmp_path):
    checkout, python = colab
    folder = checkout / "launch"
    where = "import cssl_jax, sys; print(cssl_jax.__file__)"
    home = subprocess.check_output([python, "-c", where], text=True, cwd=tmp_path)
    assert str(python.parents[1]) in home  # installed there, not found in this checkout
    assert sys.prefix not in home
    for run in ("demo", "mine"):
        results = json.loads((folder / "runs" / run / "results.json").read_text())
        trained, untrained = results["linear"]["top1"], results["random_init"]["linear"]["top1"]
        assert 0 < untrained <= 1
        assert 0 < trained <= 1
        # A run of seconds on some hundred images need not beat live random features.
        assert run == "mine" or trained > untrained
    assert (folder / "features.npz").is_file()
    outputs = [o for cell in ran.cells if cell.cell_type == "code" for o in cell.outputs]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    drawn = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(drawn) == 3  # two runs' curves and the neighbours
    tables = [o.data["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})]
    assert len(tables) == 2
    assert all("| untrained |" in table for table in tables)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_digits_recipe_is_accused_of_nothing(ran, colab):
    # The notebook's demo trains the recipe as a user does, without the suite's compiler options,
    # which make runs of minutes several times slower.
    (demo,) = [cell for cell in ran.cells if cell.source.startswith('cssl("demo"')]
    printed = "".join(output.get("text", "") for output in demo.outputs)
    assert "trained encoder" in printed
    for title in (
        *("at chance:", "worse than chance:", "views too"),
        *("collapsed", "dead", "share labels"),
    ):
        assert title not in printed
    run = open_run(colab[0] / "launch" / "runs" / "demo")
    # The encoder's kNN accuracy is below that of raw pixels: that verdict is correct.
    wrong = [verdict for verdict in run.verdicts if verdict.grade != "good"]
    assert {verdict.title for verdict in wrong} <= {"no better than raw pixels"}
