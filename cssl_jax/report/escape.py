"""Text that is safe inside HTML and Markdown."""

import html


def printable(text: str) -> str:
    r"""Makes text encodable as UTF-8; undecodable bytes of a file name become escapes (\xe9)."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(printable(text).split())


def text(value: object) -> str:
    """Escapes a value as HTML text, also for use in an attribute."""
    return html.escape(printable(str(value)), quote=True)


def plain(text: str) -> str:
    """Text on one line, with all characters escaped that Markdown or HTML would interpret."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    for character in "\\`*_[]|":  # the backslash first, or the escapes would be escaped again
        text = text.replace(character, "\\" + character)
    return text
