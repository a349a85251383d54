"""`backup` and `restore`: everything the server keeps, into a folder and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inference_server.commands.serve import Data
from inference_server.commands.tokens import moment
from inference_server.settings import load_settings


def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder; it is made for its owner only.")],
    data: Data = None,
) -> None:
    """Write all records, the files that they name and the certificate into a folder, while the server goes on."""
    from inference_server.tasks.backup import back_up

    about = back_up(load_settings({"data_dir": data}), folder)
    typer.echo(f"{about.tasks} tasks, {about.files} files of {about.size_bytes / 1e6:,.0f} MB in all: {folder}")


def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that `backup` wrote.")],
    data: Data = None,
) -> None:
    """Put a backup into an empty data folder, or into the empty database and file storage of the settings."""
    from inference_server.tasks.backup import restore as put_back

    about = put_back(load_settings({"data_dir": data}), folder)
    typer.echo(f"{about.tasks} tasks and {about.files} files are back as of {moment(about.taken_at)}.")
