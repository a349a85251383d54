"""Use a TOMAAT service from Python: say what it takes, send an image, write what it gives into a folder.

    python examples/tomaat_client.py https://server:8443/tomaat/ct-body ct.nii.gz result

Values that have no default are set to the middle of their range.
"""

from __future__ import annotations

import sys
from pathlib import Path

from inference_server.clients.fingerprints import Trust
from inference_server.clients.tomaat import Inputs, TomaatClient


def confirmed(host: str, fingerprint: str) -> bool:
    """Ask whether a certificate that no authority signed is the right one; the answer is remembered."""
    return input(f"Trust {host}, whose certificate has the fingerprint {fingerprint}? [y/N] ") == "y"


def main(url: str, image: Path, folder: Path) -> None:
    """Send an image, for every volume that the service asks for, and print what came."""
    with TomaatClient(Trust(confirm=confirmed)) as client:
        elements = client.interface(url)
        needed = [element for element in elements if element.required]
        inputs = Inputs(
            volumes={element.destination: image for element in needed if element.type == "volume"},
            values={element.destination: sum(element.range) / 2 for element in needed if element.range},
        )
        for output in client.predict(url, inputs, folder):
            print(output.type, output.label, output.path or output.text)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
