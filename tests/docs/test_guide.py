"""The guide: its cells hold what the text claims, and it is saved as it runs."""

import ast
import base64
import pathlib
import re

import nbformat
import pytest

from helpers import compilation

PATH = pathlib.Path(__file__).resolve().parents[2] / "docs" / "guide.ipynb"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def notebook():
    content = nbformat.read(PATH, as_version=4)
    nbformat.validate(content)
    return content


@pytest.fixture(scope="module")
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cells):
    return [output for cell in cells for output in cell.outputs]


def texts(cells):
    """What a reader sees of the outputs as text."""
    for output in outputs(cells):
        yield output.get("text") or output.get("data", {}).get("text/plain", "")


def environment():
    """As a reader starts it: the test's simulated devices and compiler options taken out."""
    kept = compilation.users_environment()
    return {**kept, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_it_runs_and_its_claims_hold(notebook, tmp_path):
    from nbclient import NotebookClient

    fresh = nbformat.from_dict(notebook)
    client = NotebookClient(
        fresh, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=environment())  # raises where a cell does; the claims are asserted there
    ran = [cell for cell in fresh.cells if cell.cell_type == "code"]
    assert not [output for output in outputs(ran) if output.get("name") == "stderr"]
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def test_every_section_is_there(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.findall(r"^## (\d+)\.", text, re.MULTILINE) == [str(n) for n in range(1, 12)]
    assert "arXiv 2002.05709" in text


def test_code_is_plain_python_of_public_names(code):
    for cell in code:
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cssl_jax"):
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Attribute):
                names = [node.attr]
            private = [n for n in names if n.startswith("_") and not n.startswith("__")]
            assert not private, cell.source


def test_the_loop_of_ones_own_has_at_most_sixty_lines(code):
    (loop,) = [cell for cell in code if "own-loop" in cell.metadata.get("tags", [])]
    assert 20 < len(loop.source.splitlines()) <= 60
    assert "nt_xent(" in loop.source
    assert "pretrain" not in loop.source


def test_cells_are_short_and_assert_the_claims(code):
    assert all(len(cell.source.splitlines()) <= 60 for cell in code)
    claims = [node for cell in code for node in ast.walk(ast.parse(cell.source))]
    assert sum(isinstance(node, ast.Assert) for node in claims) >= 15


def test_it_is_saved_as_run_from_top_to_bottom(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for output in outputs(code)}
    assert kinds == {"stream", "display_data"}
    assert not [output for output in outputs(code) if output.get("name") == "stderr"]


def test_it_is_small_and_its_images_are_png(code):
    assert PATH.stat().st_size < 2_000_000
    images = [o.data["image/png"] for o in outputs(code) if o.output_type == "display_data"]
    assert len(images) >= 10
    assert all(base64.b64decode(image).startswith(PNG) for image in images)


def test_outputs_hold_no_paths_dates_or_warnings(notebook, code):
    path = r"(?:^|[\s'\"(=])(?:/[\w.-]+){2,}|[A-Z]:\\"
    date = r"\b20\d\d-\d\d-\d\d\b|\b\d\d:\d\d:\d\d\b"
    for text in texts(code):
        assert not re.search(f"{path}|{date}|Warning|Traceback", text), text
    assert not [cell for cell in notebook.cells if "execution" in cell.metadata]
