"""The form of a prediction: how it is received, and the case that becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from inference_server.api.tomaat.base64_text import decode_base64, decode_volume
from inference_server.api.tomaat.interface import PARAMETERS, Field, Interface, Kind, as_sent
from inference_server.api.tomaat.places import Point, decode_points
from inference_server.api.upload import Parts, Upload, at_part
from inference_server.errors import BadRequest, MalformedMessage, TooLarge
from inference_server.imaging.mha import mha_to_nifti
from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks.case_files.meta import ImageMeta, meta_of
from inference_server.tasks.case_zip import write_case

PART_LIMIT = 256
POINTS_LIMIT_BYTES = 4 * 1024**2
ENDINGS = ("nii.gz", "h5", "mat")
_ENDING_BYTES = 16
_ON = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_EXPECTED = {
    Kind.VOLUME: "a volume",
    Kind.FIDUCIALS: "a list of points",
    Kind.TRANSFORM: "a transform",
}


@dataclass
class Sent:
    """What came of the fields of an interface; `formats` is filled while the body is received.

    Attributes:
        texts: by destination.
        files: by destination: volumes as MHA files, points as text, transforms in their own formats.
        formats: by destination of a transform, its file's ending.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)

    def take(self, upload: Upload) -> None:
        """Take what a form held.

        Raises:
            BadRequest: a field was sent twice.
        """
        for name, paths in upload.files.items():
            if len(paths) > 1:
                raise BadRequest(f"The form has more than one '{name[:50]}'; one is taken.", field=name)
        self.texts = upload.texts
        self.files = {name: paths[0] for name, paths in upload.files.items()}

    def file(self, of: Field) -> Path | None:
        """Return what was sent in a field, or None where nothing was, or its checkbox says that it does not count.

        Raises:
            BadRequest: the field is required and not there.
        """
        if of.switch and not _is_on(of.switch, self.texts.get(of.switch, "true")):
            return None
        found = self.files.get(of.destination)
        if found is None and of.required:
            raise _missing(of.destination, _EXPECTED[of.kind])
        return found


def parts_of(interface: Interface, sent: Sent) -> Parts:
    """Return how the form of an interface is received. Files are decoded on the way to the disk.

    Fields of other names are passed over: the fielded client also sends those of services that it used before.
    """
    files = {of.destination: of.kind for of in interface.of(Kind.VOLUME, Kind.FIDUCIALS, Kind.TRANSFORM)}
    texts = {of.destination for of in interface.of(*PARAMETERS)} | interface.switches

    def decode(name: str, data: Iterator[bytes]) -> Iterable[bytes]:
        match files[name]:
            case Kind.VOLUME:
                return decode_volume(data)
            case Kind.TRANSFORM:
                return _transform(name, data, sent)
        return data

    return Parts(frozenset(files), frozenset(texts), decode, PART_LIMIT, others_pass=True)


def parameters_of(interface: Interface, manifest: Manifest, texts: Mapping[str, str]) -> dict[str, str | int]:
    """Return the parameters that were sent, by their names.

    Raises:
        BadRequest: one that has no default is missing.
    """
    declared = {parameter.name: parameter for parameter in manifest.parameters}
    given: dict[str, str | int] = {}
    for of in interface.of(*PARAMETERS):
        parameter = declared[of.name]
        if of.destination in texts:
            given[of.name] = as_sent(parameter, texts[of.destination])
        elif parameter.default is None:
            raise _missing(of.destination, "a value")
    return given


def write_sent_case(
    target: Path, sent: Sent, upload: Upload, interface: Interface, manifest: Manifest, settings: Settings
) -> None:
    """Write the case that was sent as a zip.

    Args:
        target: the zip to write.
        sent: what came.
        upload: gives room for the images in their other form.
        interface: the fields.
        manifest: of the model.
        settings: limits.

    Raises:
        BadRequest: a field is missing, or is not what it should be; so do its subclasses and `TooLarge`.
    """
    volumes = _volumes(sent, interface, manifest)
    images, metas = [], []
    for of, path in volumes:
        images.append(upload.stage())
        with at_part(of.destination):
            metas.append(_as_nifti(path, images[-1], manifest, settings))
    points = {of.name: _points(of, path) for of, path in _given(sent, interface.of(Kind.FIDUCIALS))}
    with _named_files(sent, interface) as transforms:
        write_case(target, images, metas=metas, points=points, transforms=transforms)


def _volumes(sent: Sent, interface: Interface, manifest: Manifest) -> list[tuple[Field, Path]]:
    """Return the volumes in the order of the channels."""
    of_channel = {of.name: of for of in interface.of(Kind.VOLUME)}
    fields = [of_channel[channel.name] for channel in manifest.channels]
    given = _given(sent, fields)
    for expected, (of, _) in zip(fields, given, strict=False):
        if of is not expected:
            raise BadRequest(
                f"The volume '{of.destination}' can only be sent together with '{expected.destination}'.",
                field=expected.destination,
            )
    return given


def _given(sent: Sent, fields: Iterable[Field]) -> list[tuple[Field, Path]]:
    return [(of, path) for of in fields if (path := sent.file(of)) is not None]


def _as_nifti(source: Path, target: Path, manifest: Manifest, settings: Settings) -> ImageMeta:
    limit_bytes = settings.image_limit_bytes
    return meta_of(mha_to_nifti(source, target, limit_bytes=limit_bytes, dimensions=manifest.dimensions))


def _points(of: Field, path: Path) -> tuple[Point, ...]:
    with path.open("rb") as file:
        content = file.read(POINTS_LIMIT_BYTES + 1)
    if len(content) > POINTS_LIMIT_BYTES:
        raise TooLarge(f"The list of points '{of.destination[:50]}' is larger than this server takes.")
    # What is no text is no list of points either, and is refused as such.
    return decode_points(content.decode(errors="replace"), field=of.destination)


@contextmanager
def _named_files(sent: Sent, interface: Interface) -> Iterator[dict[str, Path]]:
    """Give the transforms under names that end as their formats do."""
    with TemporaryDirectory() as folder:
        named = {}
        for number, (of, path) in enumerate(_given(sent, interface.of(Kind.TRANSFORM))):
            named[of.name] = Path(folder, f"{number}.{sent.formats[of.destination]}")
            named[of.name].symlink_to(path)
        yield named


def _transform(name: str, pieces: Iterator[bytes], sent: Sent) -> Iterator[bytes]:
    """Yield a transform's file, which comes as its ending, a line break, and base64."""
    head = b""
    for piece in pieces:
        head += piece
        if b"\n" in head or len(head) > _ENDING_BYTES:
            break
    line, _, rest = head.partition(b"\n")
    ending = line.decode(errors="replace").strip().lower()
    if ending not in ENDINGS:
        raise MalformedMessage(
            f"A transform must be sent as its format ({', '.join(ENDINGS)}), a line break, and the file in base64.",
            field=name,
        )
    sent.formats[name] = ending
    yield from decode_base64(chain((rest,), pieces))


def _is_on(name: str, text: str) -> bool:
    try:
        return _ON[text.strip().lower()]
    except KeyError:
        raise BadRequest(f"The field '{name[:50]}' must be True or False.", field=name) from None


def _missing(name: str, expected: str) -> BadRequest:
    return BadRequest(f"The field '{name[:50]}' is missing; {expected} was expected.", field=name)
