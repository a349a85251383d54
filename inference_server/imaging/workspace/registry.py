"""The tree of entries that a workspace is made of. Names are parted by dots: ``LayerMetaData.CustomNickName``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Folder:
    """A folder of entries, which are texts, and of further folders. Nothing of it is ever changed in place."""

    entries: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Folder] = field(default_factory=dict)

    def get(self, path: str, default: str = "") -> str:
        """Return an entry, `default` where there is none."""
        parents, _, key = path.rpartition(".")
        return self.folder(parents).entries.get(key, default)

    def number(self, path: str, default: int = 0) -> int:
        """Return an entry that is a whole number, `default` where there is none or it is something else."""
        try:
            return int(self.get(path).strip())
        except ValueError:
            return default

    def numbers(self, path: str, count: int) -> tuple[float, ...] | None:
        """Return an entry of `count` numbers parted by blanks, None where it is something else."""
        try:
            found = tuple(float(word) for word in self.get(path).split())
        except ValueError:
            return None
        return found if len(found) == count else None

    def folder(self, path: str) -> Folder:
        """Return a folder, an empty one where there is none."""
        found = self
        for key in filter(None, path.split(".")):
            found = found.folders.get(key, Folder())
        return found

    def elements(self, pattern: str) -> tuple[Folder, ...]:
        """Return the folders of a numbered list, up to the first gap; `pattern` is as ``Layer[{:03d}]``."""
        found: list[Folder] = []
        while (key := pattern.format(len(found))) in self.folders:
            found.append(self.folders[key])
        return tuple(found)

    def with_entry(self, path: str, value: str) -> Folder:
        """Return the same tree with an entry set."""
        parents, _, key = path.rpartition(".")
        if parents:
            return self.with_folder(parents, self.folder(parents).with_entry(key, value))
        return replace(self, entries={**self.entries, key: value})

    def with_folder(self, path: str, folder: Folder) -> Folder:
        """Return the same tree with a folder in the place of the one that was there."""
        key, _, rest = path.partition(".")
        below = self.folder(key).with_folder(rest, folder) if rest else folder
        return replace(self, folders={**self.folders, key: below})

    def with_elements(self, pattern: str, elements: Iterable[Folder]) -> Folder:
        """Return the same tree with a numbered list in the place of the one that was there.

        What stood beyond a gap, and so was none of the list, goes if the list gets longer or shorter: it must not
        become a part of it.
        """
        listed = {pattern.format(number): folder for number, folder in enumerate(elements)}
        same_length = len(listed) == len(self.elements(pattern))
        numbered = _matcher(pattern)
        kept = {key: folder for key, folder in self.folders.items() if same_length or not numbered.fullmatch(key)}
        return replace(self, folders={**kept, **listed})


def _matcher(pattern: str) -> re.Pattern[str]:
    before, _, after = re.sub(r"\{[^}]*\}", "\0", pattern).partition("\0")
    return re.compile(f"{re.escape(before)}[0-9]+{re.escape(after)}")
