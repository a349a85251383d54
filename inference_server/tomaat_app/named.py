"""Images and transforms that are names of files too, for scripts of the original, which gave names of files."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import SimpleITK as sitk  # noqa: N813

Value = TypeVar("Value", sitk.Image, sitk.Transform)
FilesIn = Callable[[], Path]
"""Gives the private folder of a case."""


class Named:
    """Makes an object of SimpleITK a name of a file as well, which is written once somebody wants the name."""

    _stem: str
    _files: FilesIn

    def __fspath__(self) -> str:
        """Write the file if it is not there, and return its name."""
        path = self._files() / f"{self._stem}{_ending(self)}"
        if not path.exists():
            write = sitk.WriteImage if isinstance(self, sitk.Image) else sitk.WriteTransform
            write(self._plain(), str(path))
        return str(path)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Have what is pickled be the object alone; the file stays with its case."""
        return self._plain().__reduce_ex__(protocol)

    def _plain(self) -> Any:
        return _plain_type(type(self))(self)


def named(value: Value, stem: str, files: FilesIn) -> Value:
    """Return an image or a transform that is the name of its file too.

    Wherever SimpleITK, `open`, `pathlib`, nibabel or VTK want the name of a file, it may be given.

    Args:
        value: it is changed.
        stem: the file's name without its ending, which is `.mha` for an image, `.nii.gz` for one of vectors and `.h5`
            for a transform.
        files: asked for the folder when the file is written.
    """
    value.__class__ = _named_type(type(value))
    value._stem, value._files = stem, files
    return value


@contextmanager
def names_understood() -> Iterator[None]:
    """Have SimpleITK's readers, which take no other paths than texts and pathlib's, read such values by their names."""
    readers = ((sitk, "ReadImage", 0), (sitk, "ReadTransform", 0), (sitk.ImageFileReader, "SetFileName", 1))
    before = [getattr(owner, name) for owner, name, _ in readers]
    for (owner, name, place), read in zip(readers, before, strict=True):
        setattr(owner, name, _by_name(read, place))
    try:
        yield
    finally:
        for (owner, name, _), read in zip(readers, before, strict=True):
            setattr(owner, name, read)


def _by_name(read: Callable[..., Any], place: int) -> Callable[..., Any]:
    @functools.wraps(read)
    def reading(*arguments: Any, **more: Any) -> Any:
        given = list(arguments)
        if len(given) > place and isinstance(given[place], Named):
            given[place] = os.fspath(given[place])
        return read(*given, **more)

    return reading


def _named_type(plain: type[Any]) -> type[Any]:
    return type(f"Named{plain.__name__}", (Named, plain), {})


def _plain_type(named_type: type) -> type:
    return named_type.__mro__[2]


def _ending(value: Any) -> str:
    if not isinstance(value, sitk.Image):
        return ".h5"
    return ".nii.gz" if value.GetNumberOfComponentsPerPixel() > 1 else ".mha"
