"""Report of fine-tuning or domain adaptation: one HTML page, and the same content as Markdown."""

import json
import pathlib

from cssl_jax.errors import UserError
from cssl_jax.outputs import check_output, is_stream, write_output
from cssl_jax.report import markdown as md
from cssl_jax.report.escape import plain, text
from cssl_jax.report.html import document
from cssl_jax.report.table import to_html, to_markdown
from cssl_jax.transfer.transfer_results import AdaptationResults, FinetuneResults
from cssl_jax.transfer.transfer_tables import TransferResults, sentences, table

# File of results -> (type of its content, title of its table).
FINETUNE, ADAPTATION = "finetune.json", "adaptation.json"
_FILES: dict[str, tuple[type[FinetuneResults] | type[AdaptationResults], str]] = {
    FINETUNE: (FinetuneResults, "Fine-tuning"),
    ADAPTATION: (AdaptationResults, "Domain adaptation"),
}


def has_results(folder: str | pathlib.Path) -> bool:
    """True if a folder holds results of ``finetune`` or ``adapt``."""
    return any((pathlib.Path(folder).expanduser() / name).is_file() for name in _FILES)


def read_results(folder: str | pathlib.Path) -> dict[str, TransferResults]:
    """Results in a folder, by the title of their table.

    Raises:
        UserError: The folder holds no results, or a file of results cannot be read.
    """
    found: dict[str, TransferResults] = {}
    for name, (kind, title) in _FILES.items():
        path = pathlib.Path(folder).expanduser() / name
        if not path.is_file():
            continue
        try:
            found[title] = kind.from_json(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as results: {error}") from error
    if not found:
        raise UserError(f"{folder} has neither {FINETUNE} nor {ADAPTATION}")
    return found


def write_transfer_report(
    folder: str | pathlib.Path, output: str | pathlib.Path | None = None
) -> pathlib.Path:
    """Writes report.html, and next to it report.md.

    Only the page is written if ``output`` is standard output, a pipe or a device.

    Args:
        folder: Output folder of ``finetune`` or ``adapt``.
        output: HTML file to write (.html); None is report.html in the folder.

    Returns:
        Path of the page.

    Raises:
        UserError: The folder holds no results, or a file cannot be written.
    """
    folder = pathlib.Path(folder).expanduser()
    found = read_results(folder)
    path = pathlib.Path(output).expanduser() if output else folder / "report.html"
    check_output(path, ".html")
    write_output(path, page(folder.name, found))
    if not is_stream(path):
        write_output(path.with_suffix(".md"), markdown(folder.name, found))
    return path


def page(name: str, found: dict[str, TransferResults]) -> str:
    """The HTML page of results."""
    sections = []
    for title, results in found.items():
        notes = "".join(f"<p>{text(line)}</p>" for line in _notes(results))
        anchor = title.lower().replace(" ", "-")
        content = f'{to_html(table(results))}<section class="card">{notes}</section>'
        sections.append((anchor, title, content))
    return document(text(name), sections, {"maps": [], "charts": []})


def markdown(name: str, found: dict[str, TransferResults]) -> str:
    """The same content as Markdown."""
    lines = [f"# {plain(name)}", "", md.date(), ""]
    for title, results in found.items():
        lines += [f"## {title}", "", *to_markdown(table(results)), ""]
        lines += [*(f"- {plain(line)}" for line in _notes(results)), ""]
    return "\n".join(lines).rstrip() + "\n"


def _notes(results: TransferResults) -> list[str]:
    return [f"Pretrained run: {results.run}.", *sentences(results)]
