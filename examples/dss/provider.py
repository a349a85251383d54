"""Serve tickets of a DSS server with an algorithm of your own: here, what is brighter than the mean is marked.

    inference-server dss login --server https://dss.example.org
    python examples/dss/provider.py https://dss.example.org lab <hash of the service>

With the package `itksnap-dss` the same script runs with `from itksnap_dss import DSSClient`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import SimpleITK as sitk  # noqa: N813

from inference_server.clients.dss import DSSClient
from inference_server.errors import InferenceServerError
from inference_server.imaging.workspace import SnapLabel, read_workspace, write_workspace
from inference_server.imaging.workspace.services import SegmentationFile, main_of, with_segmentations


def segment(folder: Path) -> Path:
    """Mark the main image of the workspace in a folder; returns a workspace with the labels."""
    [path] = folder.glob("*.itksnap")
    workspace = read_workspace(path)
    image = sitk.ReadImage(str(folder / main_of(workspace).file_name))
    mean = float(sitk.GetArrayViewFromImage(image).mean())
    sitk.WriteImage(image > mean, str(folder / "labels.nii.gz"))
    made = SegmentationFile("bright", "labels.nii.gz", (SnapLabel(1, "Bright", (255, 200, 0)),))
    write_workspace(with_segmentations(workspace, [made]), path)
    return path


def serve(client: DSSClient, ticket: int) -> None:
    """Answer one ticket."""
    with tempfile.TemporaryDirectory() as folder:
        client.dssp_download_ticket(ticket, folder)
        client.dssp_log(ticket, "info", "All files are here.")
        client.dssp_set_progress(ticket, 0.3)
        result = segment(Path(folder))
        client.dssp_set_progress(ticket, 0.8)
        client.dssp_upload_ticket(ticket, str(result))
        client.dssp_set_status(ticket, "success")


def main(server: str, provider: str, service: str) -> None:
    """Claim tickets until interrupted."""
    client = DSSClient(server)
    client.login_if_needed()
    while True:
        claimed = client.dssp_wait_for_ticket([service], provider, "instance_1", timeout=60, interval=5)
        if claimed is None:
            continue
        ticket = int(claimed["ticket"].iloc[0])
        try:
            serve(client, ticket)
        except (InferenceServerError, RuntimeError) as error:  # RuntimeError: what SimpleITK cannot read
            client.dssp_log(ticket, "error", str(error))
            client.dssp_set_status(ticket, "failed")


if __name__ == "__main__":
    main(*sys.argv[1:4])
