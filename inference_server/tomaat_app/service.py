"""A TOMAAT service: an app with its interfaces, to be run by the script that defines it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inference_server.tomaat_app.app import TomaatApp
from inference_server.tomaat_app.config import check_config, read_config
from inference_server.tomaat_app.folder import manifest_of
from inference_server.tomaat_app.interface import check_inputs, check_outputs
from inference_server.tomaat_app.script import is_started_for

Elements = Sequence[Mapping[str, Any]]


class TomaatService:
    """An app and all that has to be known to serve it.

    Args:
        config: `name` and `port`, and what else is known of it (see `inference_server.tomaat_app.config`); or the path
            of a JSON file with that.
        app: the app.
        input_interface: one dictionary for each element of the client's form.
        output_interface: one dictionary for each element of the answer.

    Raises:
        SettingsError: one of these is not what it should be; the message says where.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str | Path,
        app: TomaatApp,
        input_interface: Elements,
        output_interface: Elements,
    ) -> None:
        self.config = read_config(config)
        self.app = app
        self.input_interface = input_interface
        self.output_interface = output_interface
        self.checked = check_config(self.config)
        self.inputs = check_inputs(input_interface)
        self.outputs = check_outputs(output_interface, self.inputs)
        self.manifest = manifest_of(self.checked, self.inputs, self.outputs)

    def start_service_announcement(self) -> None:
        """Have `run()` announce the service, as `announce: true` in the config does.

        Raises:
            SettingsError: the config does not say to whom, or with which key.
        """
        self.checked = check_config({**self.config, "announce": True})

    def run(self) -> None:
        """Serve the app over HTTPS, with a queue and workers behind it, until Ctrl-C.

        Call it in the main thread of a script. Its workers run the same script, as far as to this call, which there
        hands the app over to them and does nothing else.

        Raises:
            SettingsError: the server cannot be started; the message says why.
        """
        if is_started_for(self):
            from inference_server.tomaat_app.serving import serve

            serve(self)
