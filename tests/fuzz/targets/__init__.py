"""Everything that is fed, by name."""

from fuzz.target import Target
from fuzz.targets import cases, meta, niftis, pictures, results, uploads

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        niftis.HEADER,
        niftis.VOLUME,
        meta.META,
        cases.CASE,
        cases.FLAT_CASE,
        pictures.PICTURE,
        results.RESULT,
        uploads.UPLOAD,
    )
}
