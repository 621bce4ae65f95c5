"""What a run read of a dataset, as MLflow shows it."""

from hashtag_core.data.dataset import Dataset, Split
from hashtag_core.schema import PREPARED
from hashtag_core.tracking.provenance import log_dataset
from hashtag_core.tracking.runs import Run

CONTEXTS = {"train": "training", "validation": "validation", "test": "evaluation"}


def log_split(run: Run, dataset: Dataset, split: Split) -> None:
    """The split as an input of the run: the dataset's content hash, where it lies, how many posts and tags it has."""
    info = dataset.info
    counts = {
        "num_rows": info.posts.get(split, 0),
        "vocabulary": len(dataset.vocabulary),
        "posts": dict(info.posts),
        "content_hash": info.content_hash,
    }
    columns = {field.name: str(field.type) for field in PREPARED}
    name = dataset.uri.rstrip("/").rpartition("/")[2] or "dataset"
    log_dataset(run, f"{name}.{split}", info.content_hash, dataset.uri, CONTEXTS[split], columns, counts)
