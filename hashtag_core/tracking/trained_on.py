"""Which registered model versions were trained on a dataset, by the hash of its content that their runs carry."""

from collections.abc import Iterable

from hashtag_core.tracking.registry import model_uri
from hashtag_core.tracking.runs import connect, mlflow_errors

PAGE = 1000


def versions_trained_on(content_hashes: Iterable[str]) -> list[str]:
    """`models:/NAME/VERSION` of each, sorted. NotFoundError where there is no MLflow database, StorageError where the server is away."""
    client, found = connect(create=False), set[str]()
    with mlflow_errors("cannot look up which models were trained on a dataset"):
        experiments = [item.experiment_id for item in client.search_experiments()]
        for content_hash in content_hashes:
            asked, token = f"tags.dataset_hash = '{content_hash}'", None
            while True:
                runs = client.search_runs(experiments, asked, max_results=PAGE, page_token=token)
                for run in runs:
                    versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
                    found |= {model_uri(version.name, str(version.version)) for version in versions}
                token = runs.token
                if not token:
                    break
    return sorted(found)
