"""The whole path on the sample archive: prepare, train four families, evaluate, promote, tag, read the result.

    python jobs/demo.py

Everything lands in ./demo, runs and models in MLflow. It takes three to five minutes on two cores and may be run again.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jobs.common import JobParser, add_common_arguments, run


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="demo", description=__doc__)
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), _demo, argv)


def _demo(arguments: argparse.Namespace) -> Mapping[str, object]:
    from jobs.demo_steps import demo  # Ray and torch: seconds to import

    return demo(arguments)


if __name__ == "__main__":
    sys.exit(main())
