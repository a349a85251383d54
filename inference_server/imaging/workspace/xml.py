"""A tree of entries as the XML text that ITK-SNAP reads and writes.

Element names are read in upper and lower case, elements of other names are passed over, and a document type may be
there as ITK-SNAP writes it. Entities are refused, declared or not used; size, depth and number of entries are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn
from xml.parsers import expat
from xml.sax.saxutils import escape

from inference_server.errors import MalformedMessage, TooLarge
from inference_server.imaging.sizes import size_text
from inference_server.imaging.workspace.registry import Folder

LIMIT_BYTES = 16 * 1024**2
DEPTH_LIMIT = 64
NODE_LIMIT = 250_000
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPED = {'"': "&quot;", "'": "&apos;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
_INDENT = "  "
_HEAD = '<?xml version="1.0" encoding="UTF-8" ?>\n'


def decode_registry(content: bytes) -> Folder:
    """Decode the XML of a workspace.

    Raises:
        MalformedMessage: it is not XML, is no workspace, or declares entities.
        TooLarge: it is larger or deeper than any workspace.
    """
    if len(content) > LIMIT_BYTES:
        raise TooLarge(f"The workspace is larger than {size_text(LIMIT_BYTES)}.")
    builder = _Builder()
    try:
        builder.parser.Parse(content, True)
    except expat.ExpatError as exc:
        raise MalformedMessage(
            f"The workspace is not well-formed XML (line {exc.lineno}); a file saved by ITK-SNAP was expected."
        ) from exc
    return builder.root()


def encode_registry(root: Folder) -> bytes:
    """Encode a tree as the XML of a workspace. Characters that XML cannot hold become the replacement character."""
    lines = [f"{_HEAD}<registry>", *_lines(root, 1), "</registry>", ""]
    return "\n".join(lines).encode()


def _lines(folder: Folder, depth: int) -> Iterator[str]:
    indent = _INDENT * depth
    for key, value in folder.entries.items():
        yield f"{indent}<entry key={_quoted(key)} value={_quoted(value)} />"
    for key, inner in folder.folders.items():
        yield f"{indent}<folder key={_quoted(key)} >"
        yield from _lines(inner, depth + 1)
        yield f"{indent}</folder>"


def _quoted(text: str) -> str:
    """Return a text as an attribute in quotes."""
    held = _NOT_XML.sub("\ufffd", text)
    return f'"{escape(held, _ESCAPED)}"'


@dataclass
class _Open:
    """A folder that is being read."""

    entries: dict[str, str] = field(default_factory=dict)
    folders: dict[str, _Open] = field(default_factory=dict)

    def closed(self) -> Folder:
        return Folder(self.entries, {key: folder.closed() for key, folder in self.folders.items()})


class _Builder:
    """Makes a tree of what expat finds; one file each."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate("UTF-8")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.EntityDeclHandler = self._refuse
        self.parser.UnparsedEntityDeclHandler = self._refuse
        self.parser.ExternalEntityRefHandler = self._refuse
        self.parser.SkippedEntityHandler = self._refuse
        self._tree = _Open()
        self._stack: list[_Open] = []
        self._nodes = 0

    def root(self) -> Folder:
        if not self._nodes:
            raise MalformedMessage(_OTHER_XML)
        return self._tree.closed()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name, inside = name.lower(), bool(self._stack)
        if not inside and name != "registry":
            raise MalformedMessage(_OTHER_XML)
        self._nodes += 1
        if self._nodes > NODE_LIMIT or len(self._stack) > DEPTH_LIMIT:
            raise TooLarge("The workspace has more entries or deeper folders than any that ITK-SNAP saves.")
        here = self._stack[-1] if inside else self._tree
        key = attributes.get("key", "")
        if inside and name == "folder":
            here = here.folders.setdefault(key, _Open())
        elif inside and name == "entry":
            here.entries[key] = attributes.get("value", "")
        self._stack.append(here)

    def _end(self, name: str) -> None:
        del name
        self._stack.pop()

    def _refuse(self, *_: Any) -> NoReturn:
        raise MalformedMessage("The workspace uses XML entities, which no workspace of ITK-SNAP does; it was not read.")


_OTHER_XML = "This XML is no workspace of ITK-SNAP: its first element must be 'registry'."
