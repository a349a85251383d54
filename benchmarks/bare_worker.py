"""A Celery worker that does nothing: what a message costs without a server around it."""

from __future__ import annotations

import sys

from celery import Celery


def main() -> None:
    """Serve `bare.echo` on the broker given as the only argument."""
    url = sys.argv[1]
    app = Celery("bare", broker=url, backend=url)
    app.task(_nothing, name="bare.echo")
    app.worker_main(["worker", "-Q", "bare", "-c", "2", "--without-gossip", "--without-mingle", "-l", "ERROR"])


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
