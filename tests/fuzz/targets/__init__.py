"""Everything that is fed, by name. A target's module is loaded when it is asked for: most need few libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from fuzz.target import Target

PLACES = {
    "header": "niftis.HEADER",
    "nifti": "niftis.VOLUME",
    "mha": "mhas.MHA",
    "meta": "meta.META",
    "case": "cases.CASE",
    "flat case": "cases.FLAT_CASE",
    "picture": "pictures.PICTURE",
    "result": "results.RESULT",
    "upload": "uploads.UPLOAD",
    "tomaat form": "tomaat.FORM",
    "tomaat json": "tomaat.MESSAGE",
    "workspace": "workspaces.WORKSPACE",
    "ticket": "tickets.TICKET",
    "ticket form": "tickets.FORM",
}


class _Targets(Mapping[str, Target]):
    def __getitem__(self, name: str) -> Target:
        module, _, constant = PLACES[name].partition(".")
        found = getattr(import_module(f"{__name__}.{module}"), constant)
        assert isinstance(found, Target)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


TARGETS: Mapping[str, Target] = _Targets()
