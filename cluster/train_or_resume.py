"""Training that a retry goes on with: what the RayJob of training runs.

    python /app/cluster/train_or_resume.py --storage s3://bucket/runs --recipe FILE --dataset URI [flags of jobs/train.py]

KubeRay repeats a failed RayJob with the same command on a new cluster. Checkpoints go into a folder of the RayJob's own below
`--storage`; a run that is found there is gone on with, and one that is finished is told again, so that a retry that comes after
the last epoch costs nothing. The RayJob is known by its cluster's name, `<RayJob>-<attempt>`, which KubeRay puts into
RAY_CLUSTER_NAME; `--job NAME` says it elsewhere.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hashtag_core import storage
from hashtag_core.errors import NotFoundError
from jobs import train


def folder_of(root: str, job: str | None) -> str:
    """Where the runs of this RayJob lie; SystemExit with code 2 where it cannot be told which it is."""
    if job is None:
        job, dash, _ = os.environ.get("RAY_CLUSTER_NAME", "").rpartition("-")
        if not dash:
            print("train_or_resume: RAY_CLUSTER_NAME is no <RayJob>-<attempt>: say --job NAME", file=sys.stderr)
            raise SystemExit(2)
    return storage.join(root, job)


def run_in(folder: str) -> str | None:
    """The name of the run in a folder; the last one where there are several (names have their time), None where there is none."""
    ids = storage.join(folder, "_ids")  # which a run writes once its record is there
    try:
        files = storage.list_files(ids, ".json")
    except NotFoundError:
        return None
    return max((storage.read_json(storage.join(ids, file.path))["name"] for file in files), default=None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train_or_resume", description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--job")
    own, flags = parser.parse_known_args(argv)
    folder = folder_of(own.storage, own.job)
    run = run_in(folder)
    flags += ["--set", f"training.storage={folder}"]
    return train.main(flags + (["--resume", run] if run else []))


if __name__ == "__main__":
    sys.exit(main())
