"""What MLflow is told of a model that was judged."""

from collections.abc import Mapping

from hashtag_core.config import Recipe
from hashtag_core.evaluation.ground_truth import Truth
from hashtag_core.evaluation.report import main_figures, main_k
from hashtag_core.judging.predictions import TABLE, predictions
from hashtag_core.judging.report import Evaluation
from hashtag_core.tracking.registry import set_version_tags
from hashtag_core.tracking.runs import start_run, version_label
from hashtag_core.tracking.splits import log_split


def log_evaluation(evaluation: Evaluation, truth: Truth, recipe: Recipe, texts: Mapping[str, str]) -> str:
    """A run in MLflow, below the one that made the model, with the figures of all protocols, a table of what some posts were
    given and, on a registered version, a tag that leads to it.

    Returns the run's id.
    """
    model, row, split, dataset = evaluation.model, evaluation.row, truth.split, truth.dataset
    labels = {
        "kind": "evaluation",
        "model": model.uri,
        "model_name": model.name,
        "model_version": model.version,
        "family": row["family"],
        "dataset": dataset.uri,
        "dataset_hash": dataset.info.content_hash,
        "split": split,
    }
    title = f"evaluate {version_label(model.version)} on {split}, {model.name}"
    known = model.tags is not None  # from a server that was there when the judging began
    with start_run(recipe.tracking.experiment, title, tags=labels, parent=model.run_id, patient=known) as run:
        log_split(run, dataset, split)
        run.log_metrics(
            {f"main/{name}": value for name, value in main_figures(row["metrics"], recipe.evaluation.ks).items()}
        )
        for protocol, figures in (("headline", row["metrics"]), ("papers", row["papers"]), ("floor", row["floor"])):
            run.log_metrics({f"{split}_{protocol}.{metric}": value for metric, value in figures.items()})
        run.log_params({"evaluation": recipe.evaluation.model_dump(mode="json"), "encoders": evaluation.encoders})
        run.log_json(row, "evaluation.json")
        if recipe.evaluation.gallery_posts:
            run.log_table(predictions(evaluation.ranked, truth, recipe.evaluation.gallery_posts), TABLE)
        for name, text in texts.items():
            run.log_text(text, name)
    if known:
        f1 = f"f1_at_{main_k(recipe.evaluation.ks)}"
        short = dataset.info.content_hash[:12]
        tag = f"run {run.run_id}: {f1} headline {row['metrics'][f1]:.4f}, papers {row['papers'][f1]:.4f}, floor {row['floor'][f1]:.4f}"
        set_version_tags(model.name, model.version, {f"evaluation.{split}.{short}": tag})
    return run.run_id
