"""The manifest: what a model declares of itself. Reading one runs no code of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from inference_server.errors import BadRequest, ModelLoadError
from inference_server.models.declared import Declared
from inference_server.models.faults import describe_faults
from inference_server.models.nnunet_folder import NNUNET, NnUNet
from inference_server.models.parameter import Parameter
from inference_server.models.preparation import Inferer, NetworkClass, Preparation, Windows
from inference_server.models.resources import SHORT_FORMS, Resources
from inference_server.models.terms import Code

Shade = Annotated[int, Field(ge=0, le=255)]
APP = r"^(([\w-]+/)*\w+\.py|\w+(\.\w+)*):\w+$"
MEMBER = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(:.+)?$"
ENSEMBLE = "ensemble"
Color = tuple[Shade, Shade, Shade]
ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class LabelName(Declared):
    """A label's name, its display colour (red, green, blue, 0–255) and, where known, a terminology code."""

    name: str = Field(min_length=1, max_length=200)
    color: Color = (255, 0, 0)
    code: Code | None = Field(None, description="`scheme:value` of a terminology, as in DICOM: `SCT:…` is SNOMED CT")


class Channel(Declared):
    """One image that a model takes."""

    name: str = Field("image", min_length=1)
    modality: str | None = None
    description: str = ""
    required: bool = True


class NamedInput(Declared):
    """A set of points, or a transform, that a model takes beside its images."""

    name: str = Field(pattern=r"^\w[\w .-]{0,99}$")
    description: str = ""
    required: bool = True


class Precision(StrEnum):
    """The number format a network computes in."""

    AUTO = "auto"
    """The fastest that agrees with float32 on the model's example."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Backend(StrEnum):
    """What computes a network."""

    AUTO = "auto"
    """The fastest that agrees with `eager` on the model's example."""
    EAGER = "eager"
    """Torch, operation by operation."""
    TRACED = "traced"
    """Torch, from a frozen TorchScript graph."""
    OPENVINO = "openvino"
    GRAPH = "graph"
    """`openvino` where that is installed, else `traced`; not tried on the example."""


class Manifest(Declared):
    """What a model takes, what it gives and how it runs."""

    id: ModelId
    version: str = "1.0.0"
    runtime: str = "monai-bundle"
    title: str = ""
    description: str = ""
    license: str = ""
    channels: tuple[Channel, ...] = (Channel(),)
    same_grid: bool = True
    """Whether all images have one shape. Where not, each may lie on a grid of its own; the result is on the first's."""
    points: tuple[NamedInput, ...] = ()
    transforms: tuple[NamedInput, ...] = ()
    labels: Mapping[int, LabelName] = Field(default_factory=dict)
    restore: Literal["argmax", "threshold", "labels"] = "argmax"
    """`argmax`: exclusive classes, class 0 is background. `threshold`: channel i is label i + 1, and structures may
    overlap; each gets a segmentation of its own. `labels`: the model gives integer labels itself."""
    threshold: float = Field(0.5, gt=0, lt=1)
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    """What makes probabilities of scores; by default softmax for `argmax` and sigmoid for `threshold`."""
    prepare: Preparation | None = None
    inferer: Inferer | None = None
    network: NetworkClass | None = None
    weights: str | None = Field(None, min_length=1, description="the file of the weights, in the model's folder")
    kind: Literal["segmentation", "classification"] = "segmentation"
    """`classification` gives the probability of each of `classes` instead of labels."""
    classes: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()
    app: Annotated[str, Field(pattern=APP)] | None = Field(
        None, description="`file.py:name` in the model's folder, or `module:name` of an installed package"
    )
    members: tuple[Annotated[str, Field(pattern=MEMBER)], ...] = Field(
        (), description="`id` or `id:version` of the models that an ensemble asks"
    )
    combine: Literal["mean", "majority"] = "mean"
    """What an ensemble makes of its members' answers: the mean of probabilities, or the label that most give."""
    parameters: tuple[Parameter, ...] = ()
    dimensions: Literal[2, 3] = 3
    resources: Resources = Resources()
    precision: Precision = Precision.AUTO
    backend: Backend = Backend.AUTO
    """On processors; on a GPU it is `eager`."""
    example: str | None = Field(None, description="an image in the model's folder, on which precisions are compared")
    preload: bool = True
    compile: bool = Field(False, description="whether torch.compile makes code of the network, where it can")
    nnunet: NnUNet | None = Field(None, description="what of an nnU-Net folder runs, and how")
    options: Mapping[str, Any] = Field(default_factory=dict, description="what only this runtime understands")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, declared: Any) -> Any:
        resources = declared.get("resources", {}) if isinstance(declared, Mapping) else None
        short = {key: declared[key] for key in SHORT_FORMS if key in declared}
        if not short or not isinstance(resources, Mapping):
            return declared
        if twice := [key for key in short if key in resources]:
            raise ValueError(f"`{twice[0]}` stands both at the top and in `resources`; once was expected")
        rest = {key: value for key, value in declared.items() if key not in short}
        return {**rest, "resources": {**resources, **short}}

    @field_validator("version", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value

    @field_validator("labels")
    @classmethod
    def _label_values(cls, labels: Mapping[int, LabelName]) -> Mapping[int, LabelName]:
        if any(not 1 <= value <= 65_535 for value in labels):
            raise ValueError("label values are whole numbers from 1 to 65535")
        return labels

    @model_validator(mode="after")
    def _only_trailing_channels_are_optional(self) -> Manifest:
        required = [channel.required for channel in self.channels]
        is_app = self.runtime == "python-app"
        if required != sorted(required, reverse=True) or not (any(required) or (is_app and not required)):
            raise ValueError("required channels come first, and there is at least one")
        if len({channel.name for channel in self.channels}) != len(self.channels):
            raise ValueError("two channels have the same name")
        return self

    @field_validator("parameters")
    @classmethod
    def _parameter_names(cls, parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
        if len({parameter.name for parameter in parameters}) != len(parameters):
            raise ValueError("two parameters have the same name")
        return parameters

    @model_validator(mode="after")
    def _sections_fit_the_runtime(self) -> Manifest:
        given = [name for name in _PLAIN_SECTIONS if getattr(self, name) is not None]
        if self.runtime in _SELF_DESCRIBED and given:
            raise ValueError(f"{_SELF_DESCRIBED[self.runtime]} says itself what these would: {', '.join(given)}")
        if self.nnunet and self.runtime != NNUNET:
            raise ValueError("the section `nnunet` is for nnU-Net folders: dataset.json and plans.json were expected")
        if (self.runtime == "network") != (self.network is not None):
            raise ValueError("the section `network` and `runtime: network` belong together")
        if self.restore == "labels" and isinstance(self.inferer, Windows):
            raise ValueError("labels cannot be averaged over windows; `inferer: {kind: whole}` was expected")
        return self

    @model_validator(mode="after")
    def _mirrors_fit(self) -> Manifest:
        mirror = self.inferer.mirror if self.inferer else ()
        if mirror and self.restore == "labels":
            raise ValueError("labels cannot be averaged over mirror images; `inferer` without `mirror` was expected")
        if mirror and max(mirror) >= self.dimensions:
            raise ValueError(f"inferer.mirror names axes from 0 to {self.dimensions - 1}; {max(mirror)} came")
        return self

    @model_validator(mode="after")
    def _an_app_is_named_where_one_runs(self) -> Manifest:
        if (self.runtime == "python-app") != (self.app is not None):
            raise ValueError("the key `app` and `runtime: python-app` belong together")
        return self

    @model_validator(mode="after")
    def _an_app_gets_what_no_network_does(self) -> Manifest:
        if self.runtime != "python-app" and (self.points or self.transforms or not self.same_grid):
            raise ValueError("`points`, `transforms` and `same_grid: false` are for `runtime: python-app`")
        extra = [given.name for given in (*self.points, *self.transforms)]
        taken = {channel.name for channel in self.channels} | {parameter.name for parameter in self.parameters}
        if len(set(extra) - taken) < len(extra):
            raise ValueError("points and transforms have names of their own, unlike those of channels and parameters")
        if not (self.channels or extra or taken):
            raise ValueError("a model takes something: channels, points, transforms or parameters")
        return self

    @model_validator(mode="after")
    def _classes_have_names(self) -> Manifest:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        if self.kind == "classification" and not self.classes and not self.members:
            raise ValueError("a classification names its `classes`")
        return self

    @model_validator(mode="after")
    def _an_ensemble_has_members(self) -> Manifest:
        if (self.runtime == ENSEMBLE) != bool(self.members):
            raise ValueError("the key `members` and `runtime: ensemble` belong together")
        if self.members and len(set(self.members)) < max(2, len(self.members)):
            raise ValueError("an ensemble has two members or more, each once")
        return self

    @model_validator(mode="after")
    def _steps_name_channels(self) -> Manifest:
        known = [channel.name for channel in self.channels]
        steps = self.prepare.intensity if self.prepare else ()
        unknown = [name for step in steps for name in step.channels or () if name not in known]
        if unknown:
            raise ValueError(f"prepare.intensity names no channel by '{unknown[0]}'; channels: {', '.join(known)}")
        return self

    @property
    def app_file(self) -> str | None:
        """The app's Python file in the model's folder, if it is one."""
        file = (self.app or "").partition(":")[0]
        return file if file.endswith(".py") else None

    @property
    def queue(self) -> str:
        """The queue that its tasks wait in."""
        return self.resources.queue

    @property
    def required_channels(self) -> int:
        """How many images a case has at least."""
        return sum(channel.required for channel in self.channels)

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, float | int | str | bool]:
        """Return every declared parameter with its value, given or default.

        Raises:
            BadRequest: an unknown parameter, or a value that the manifest does not allow.
        """
        declared = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in declared:
                known = ", ".join(declared) or "none"
                unknown = str(name)[:50]
                raise BadRequest(
                    f"The model '{self.id}' has no parameter '{unknown}'. Its parameters: {known}.", field=unknown
                )
        checked = {name: declared[name].check(value) for name, value in given.items()}
        defaults = {p.name: p.default for p in self.parameters if p.default is not None}
        return {**defaults, **checked}


def parse_manifest(declared: Mapping[str, Any], *, written: str = "") -> Manifest:
    """Return the manifest that a mapping declares.

    Args:
        declared: keys and values.
        written: the YAML text they stand in, as far as they stand in one.

    Raises:
        ModelLoadError: it is not a valid one; the message names the keys at fault, their lines and what was expected.
    """
    try:
        return Manifest.model_validate(declared)
    except ValidationError as exc:
        raise ModelLoadError(f"The manifest is not valid: {describe_faults(exc, written)}.") from exc


def version_key(version: str) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts version texts as people expect: 1.10 after 1.9."""
    parts = re.findall(r"\d+|[A-Za-z]+", version)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


def example_path(manifest: Manifest, folder: Path) -> Path | None:
    """Return the path of the model's example image, or None where it declares none."""
    return folder / manifest.example if manifest.example else None


_PLAIN_SECTIONS = ("activation", "prepare", "inferer", "network", "weights")
_SELF_DESCRIBED = {"monai-bundle": "a MONAI bundle", NNUNET: "an nnU-Net folder"}
