"""Where what a user keeps goes, if nothing says otherwise."""

import os
from pathlib import Path

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set in the environment of a driver that `ray job submit` started: its job's description."""


def home_folder() -> Path:
    """Where what a user keeps goes by default: the working folder, or, in a submitted job, whose working folder is a
    temporary copy, `~/.hashtag-recommender` of the node that the driver runs on."""
    return Path.home() / ".hashtag-recommender" if SUBMITTED in os.environ else Path.cwd()
