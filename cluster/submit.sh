#!/usr/bin/env bash
# Submit a job of this clone to a Ray cluster whose nodes have the dependencies installed; the clone itself is uploaded.
#
#   export RAY_API_SERVER_ADDRESS=http://HEAD:8265   # default: http://127.0.0.1:8265
#   cluster/submit.sh train --recipe jobs/recipes/lxmert4hashtag.toml --dataset s3://bucket/dataset --workers 4
#   cluster/submit.sh tag --archive s3://bucket/archive --out s3://bucket/tagged --model models:/hashtag-recommender@champion
#
# The settings below travel with the job. Secrets do not, since the dashboard shows them to everyone: nodes have theirs
# from their own environment, their pod or IAM, and a URI with a password in it is refused. The exit code is Ray's: 0 or 1; the
# job's own stands in the log. The experiment in MLflow is `--set tracking.experiment=NAME`.
set -euo pipefail

FORWARDED=(
  MLFLOW_TRACKING_URI MLFLOW_S3_ENDPOINT_URL
  AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_REGION AWS_DEFAULT_REGION
  AWS_REQUEST_CHECKSUM_CALCULATION AWS_RESPONSE_CHECKSUM_VALIDATION
)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
job=${1:-}
if [[ ! "$job" =~ ^[a-z]+$ || ! -f "$root/jobs/$job.py" ]]; then
  echo "usage: cluster/submit.sh prepare|train|evaluate|promote|tag [flags of the job]" >&2
  exit 2
fi
shift

environment=$(python3 - "${FORWARDED[@]}" <<'PYTHON'
import json, os, re, sys

variables = {name: os.environ[name] for name in sys.argv[1:] if os.environ.get(name)}
for name, value in variables.items():
    authority = value.partition("://")[2].split("/")[0] if "://" in value else ""
    if "@" in authority or re.search(r"[?&;](\w*(password|passwd|pwd|token|secret|key)\w*)=", value, re.IGNORECASE):
        sys.exit(
            f"submit.sh: {name} has a password or a token in it, and everybody who sees the dashboard would see it. Give the nodes "
            "theirs (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment of "
            "`ray start`) and the URI without it."
        )
print(json.dumps({"env_vars": variables, "excludes": [".git", "tests", "demo", "runs", "docs", "leaderboard"]}))
PYTHON
) || exit 2
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
exec ray job submit \
  --address "${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}" \
  --working-dir "$root" \
  --runtime-env-json "$environment" \
  -- python "jobs/$job.py" "$@"
