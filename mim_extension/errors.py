"""Everything that can end a step of the extension, each with a sentence for the person at the workstation.

ExtensionError
├── SettingsError          the address, the certificate or a setting cannot be used
├── InputError             what MIM handed over cannot be sent
├── ServerUnreachable      no usable answer came; asking again may help
├── InferenceServerError   the server refused or failed
│   └── JobExecError       the model could not finish the case
├── ResultTimeout          no result within the time that was given
└── OutputError            the result cannot be read, or not be drawn on the reference image
"""

from __future__ import annotations


class ExtensionError(Exception):
    """Ends a step; its text is logged as it is, so it holds no secret and no patient's data."""


class SettingsError(ExtensionError):
    """The address, the certificate or a setting cannot be used."""


class InputError(ExtensionError):
    """What MIM handed over cannot be sent."""


class ServerUnreachable(ExtensionError):
    """No usable answer came; asking again may help."""


class InferenceServerError(ExtensionError):
    """The server refused or failed."""


class JobExecError(InferenceServerError):
    """The model could not finish the case."""


class ResultTimeout(ExtensionError, TimeoutError):
    """No result within the time that was given."""


class OutputError(ExtensionError):
    """The result cannot be read, or not be drawn on the reference image."""
