"""An MHA file as ITK writes it, by hand: small, and turned about the third axis."""

from __future__ import annotations

HEADER = """\
ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 0.8 0.6 0 -0.6 0.8 0 0 0 1
Offset = -100.30000000000001 20.1 7.7
CenterOfRotation = 0 0 0
AnatomicalOrientation = RAI
ElementSpacing = 0.7 0.9 2.5
DimSize = 5 4 3
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
"""`TransformMatrix` lists the directions of x, y and z one after the other."""
