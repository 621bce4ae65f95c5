"""Where what a user keeps goes, if nothing says otherwise."""

import os
import tempfile
import uuid
from pathlib import Path

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set in the environment of a driver that `ray job submit` started: its job's description."""


def home_folder() -> Path:
    """Where what a user keeps goes by default: the working folder, or, in a submitted job, whose working folder is a
    temporary copy, `~/.hashtag-recommender` of the node that the driver runs on."""
    return Path.home() / ".hashtag-recommender" if SUBMITTED in os.environ else Path.cwd()


def folder_problem(folder: str, most: int | None, room_bytes: int) -> str | None:
    """Why Ray cannot keep its sessions (or, of any length with `most` None, a file of `room_bytes`) in a folder, which is made if
    it is not there."""
    if most is not None and len(os.fsencode(folder)) > most:
        return f"longer than the {most} bytes that leave room for a socket's name"
    try:
        os.makedirs(folder, exist_ok=True)
        probe = os.path.join(folder, f".{uuid.uuid4().hex}")
        os.mkdir(probe)
        os.rmdir(probe)
        with tempfile.TemporaryFile(dir=folder) as file:  # buffered: unbuffered, a short write is no error
            file.write(bytes(room_bytes))
    except OSError as error:
        return error.strerror or str(error)
    return None
