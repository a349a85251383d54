"""Stand-ins for MIM's objects. They offer what MIM offers, under its names, and refuse what it refuses.

What only a test wants to know (which contours are drawn, what was logged) is asked through the functions
of this module, so that the extension cannot come to lean on something that MIM does not have.
"""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class MimLogger:
    """Keeps what is logged; see ``logged``."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, str]] = []

    def info(self, text: str) -> None:
        self._add("info", text)

    def error(self, text: str) -> None:
        self._add("error", text)

    def _add(self, level: str, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError("MIM logs text only")
        self._lines.append((level, text))


class MimSession:
    """Gives the same logger every time, so that one session's log can be read as a whole."""

    def __init__(self) -> None:
        self._logger = MimLogger()

    def createLogger(self) -> MimLogger:
        return self._logger


class MimSpace:
    """The geometry of an image or of its contour grid."""

    def __init__(self, spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]) -> None:
        self._spacing, self._origin, self._direction = tuple(spacing), tuple(origin), tuple(direction)

    def getNoxSize(self) -> tuple[float, ...]:
        return self._spacing

    def getDicomCenter(self) -> tuple[float, ...]:
        return self._origin

    def getIop(self) -> tuple[float, ...]:
        return self._direction


class MimRawData:
    """The voxels of an image; a copy each time."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def copyToNPArray(self) -> np.ndarray:
        return self._array.copy()


class MimDicomInfo:
    """DICOM values by tag number."""

    def __init__(self, values: Mapping[int, object]) -> None:
        self._values = dict(values)

    def getTags(self) -> list[int]:
        return list(self._values)

    def getValue(self, tag: int) -> object:
        return self._values[tag]


class MimImageInfo:
    def __init__(self, dicom_info: MimDicomInfo) -> None:
        self._dicom_info = dicom_info

    def getDicomInfo(self) -> MimDicomInfo:
        return self._dicom_info


class MimContourInfo:
    def __init__(self, name: str) -> None:
        self._name = name

    def getName(self) -> str:
        return self._name


class MimContourData:
    """A mask that takes boolean arrays of its own shape only, as MIM does."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._array = np.zeros(shape, dtype=bool)
        self._is_drawn = True

    def copyToNPArray(self) -> np.ndarray:
        return self._array.copy()

    def setFromNPArray(self, array: np.ndarray) -> None:
        assert isinstance(array, np.ndarray), "an array is needed"
        assert array.dtype == np.bool_, f"a boolean array is needed, not {array.dtype}"
        assert array.shape == self._array.shape, f"shape {array.shape} is not {self._array.shape}"
        self._array = array.copy()
        self._is_drawn = False


class MimContour:
    """A contour of an image. Once deleted it refuses everything."""

    def __init__(self, image: MimImage, name: str) -> None:
        self._image = image
        self._info = MimContourInfo(name)
        self._data = MimContourData(_contour_shape(image))

    def getInfo(self) -> MimContourInfo:
        return self._alive()._info

    def getMultiplier(self) -> tuple[int, ...]:
        """Contour voxels per image voxel along the array's axes: z, y, x."""
        return self._alive()._image._scaling_factor

    def getDims(self) -> tuple[int, ...]:
        """The shape of the contour's array: z, y, x."""
        return self._alive()._data._array.shape

    def getSpace(self) -> MimSpace:
        return _contour_space(self._alive()._image)

    def getData(self) -> MimContourData:
        return self._alive()._data

    def redrawCompletely(self) -> None:
        self._alive()._data._is_drawn = True

    def delete(self) -> None:
        self._alive()._image._contours.remove(self)

    def _alive(self) -> MimContour:
        if self not in self._image._contours:
            raise RuntimeError("this contour was deleted")
        return self


class MimImage:
    """An image with its contours.

    Args:
        array: ``(Z, Y, X)``. Copied.
        spacing: voxel size along x, y, z in mm.
        origin: centre of the first voxel, x, y, z in mm (LPS).
        direction: direction cosines, row by row.
        scaling_factor: contour voxels per image voxel along z, y, x.
        dicom_info: DICOM values by tag number.
    """

    def __init__(
        self,
        array: np.ndarray,
        *,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        origin: Sequence[float] = (0.0, 0.0, 0.0),
        direction: Sequence[float] = IDENTITY,
        scaling_factor: Sequence[int] = (1, 2, 2),
        dicom_info: Mapping[int, object] | None = None,
    ) -> None:
        if array.ndim != 3:
            raise ValueError("MIM's images are 3-D")
        self._raw_data = MimRawData(array.copy())
        self._space = MimSpace(spacing, origin, direction)
        self._scaling_factor = tuple(scaling_factor)
        self._info = MimImageInfo(MimDicomInfo(dicom_info or {}))
        self._contours: list[MimContour] = []

    def getRawData(self) -> MimRawData:
        return self._raw_data

    def getSpace(self) -> MimSpace:
        return self._space

    def getInfo(self) -> MimImageInfo:
        return self._info

    def getContours(self) -> list[MimContour]:
        return list(self._contours)

    def createNewContour(self, name: str) -> MimContour:
        if not isinstance(name, str) or not name:
            raise ValueError("a contour needs a name")
        if name in [contour.getInfo().getName() for contour in self._contours]:
            raise ValueError("a contour of this name exists")
        contour = MimContour(self, name)
        self._contours.append(contour)
        return contour


def logged(session: MimSession, level: str | None = None) -> list[str]:
    """Return the lines that were logged, of one level or of both."""
    return [text for kind, text in session._logger._lines if level in (None, kind)]


def drawn_contours(image: MimImage) -> dict[str, np.ndarray]:
    """Return the contours that a user would see: name → boolean array ``(Z, Y, X)`` on the contour grid.

    A contour that was filled and not redrawn since is not among them.
    """
    return {
        contour.getInfo().getName(): contour.getData().copyToNPArray()
        for contour in image.getContours()
        if contour.getData()._is_drawn
    }


def _contour_shape(image: MimImage) -> tuple[int, ...]:
    shape = image._raw_data._array.shape
    return tuple((np.array(shape) * image._scaling_factor).tolist())


def _contour_space(image: MimImage) -> MimSpace:
    """The contour grid has the image's voxel edges, so that its first voxel centre lies nearer to the corner."""
    space = image.getSpace()
    factors = np.array(image._scaling_factor[::-1], dtype=float)
    spacing = np.array(space.getNoxSize())
    shift = np.array(space.getIop()).reshape(3, 3) @ ((0.5 / factors - 0.5) * spacing)
    return MimSpace((spacing / factors).tolist(), (space.getDicomCenter() + shift).tolist(), space.getIop())
