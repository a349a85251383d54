"""Drawing structures on the reference image."""

from __future__ import annotations

from typing import Iterable, Mapping

import numpy as np

from .errors import OutputError
from .mim_types import Contour, Image, Logger


class ContourLoader:
    """Puts boolean arrays into the contours of an image, by name."""

    def __init__(self, reference_image: Image, logger: Logger) -> None:
        self._image = reference_image
        self._logger = logger

    def set_contours_from_label_array_dict(self, label_array_dict: Mapping[str, np.ndarray]) -> list[str]:
        """Draw every structure of a dictionary; see ``set_contours``."""
        return self.set_contours(label_array_dict.items())

    def set_contours(self, label_arrays: Iterable[tuple[str, np.ndarray]]) -> list[str]:
        """Draw structures one by one; a contour of the same name is overwritten.

        Args:
            label_arrays: name and boolean array ``(Z, Y, X)`` on the contour grid. Not modified.

        Returns:
            The names that were drawn, in order.

        Raises:
            OutputError: a structure is not on the contour grid of the reference image. Its contour is left as it
                was; those drawn before it stay.
        """
        drawn = []
        for name, array in label_arrays:
            self._draw(name, array)
            drawn.append(name)
        return drawn

    def _draw(self, name: str, array: np.ndarray) -> None:
        contour = self._find(name)
        if contour is not None:
            self._fill(contour, name, array)
            self._logger.info(f"The contour {name!r} was there and is replaced.")
            return
        contour = self._image.createNewContour(name)
        try:
            self._fill(contour, name, array)
        except OutputError:
            contour.delete()
            raise

    def _find(self, name: str) -> Contour | None:
        for contour in self._image.getContours():
            if str(contour.getInfo().getName()) == name:
                return contour
        return None

    def _fill(self, contour: Contour, name: str, array: np.ndarray) -> None:
        try:
            contour.getData().setFromNPArray(array)
        except (AssertionError, ValueError) as error:
            raise OutputError(
                f"MIM does not take the structure {name!r}: the result does not lie on the contour grid of the "
                "reference image. Choose the image that was sent as image zero."
            ) from error
        contour.redrawCompletely()
        if not array.any():
            self._logger.info(f"The structure {name!r} is empty: the model found none.")
