"""What becomes of a trained model: its folder, its figures, a registered version, and what people read of it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure

from hashtag_core.data.model_record import EncodersIdentity, ModelInfo
from hashtag_core.encoders.trained import trained_tops
from hashtag_core.evaluation.metrics import Protocol
from hashtag_core.evaluation.report import main_figures
from hashtag_core.judging.find_thresholds import find_thresholds
from hashtag_core.judging.validation import rank_table, validation_metrics
from hashtag_core.models.base import TagModel
from hashtag_core.models.folder import CARD, load_model_folder, save_model_folder
from hashtag_core.recommend.policy import write_thresholds
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.recommend.served import golden_outputs
from hashtag_core.redaction import redact
from hashtag_core.tracking.provenance import commit_of, source_tags
from hashtag_core.tracking.registry import register_model_folder
from hashtag_core.tracking.runs import Run
from hashtag_core.training.checkpoint import Progress
from hashtag_core.training.job import VALIDATED, TrainJob
from hashtag_core.training.plan import TrainPlan


def model_info(plan: TrainPlan, identity: EncodersIdentity, run_id: str) -> ModelInfo:
    """What `model.json` tells of the run. The caption rules are the dataset's: posts are cleaned by them at tagging time."""
    info = plan.dataset.info
    described: ModelInfo = {
        "name": plan.recipe.tracking.model_name,
        "recipe": plan.recipe.model_dump(mode="json"),
        "encoders": identity,
        "captions": info.config.get("captions", plan.recipe.captions.model_dump(mode="json")),
        "dataset": {"uri": plan.dataset.uri, "content_hash": info.content_hash, "posts": dict(info.posts)},
        "run_id": run_id,
        "code": commit_of(source_tags()),
    }
    if plan.base:
        described["base"] = {"family": plan.base.family, "version": plan.base.version}
    return described


def save_and_evaluate(
    plan: TrainPlan, job: TrainJob, model: TagModel, folder: Path, info: ModelInfo
) -> dict[Protocol, dict[str, float]]:
    """Write the model folder, judge what can be loaded from it, and write the figures and the K of the best F1 into it;
    the thresholds of its tags too, where the recipe asks for them."""
    tokenizer, vocabulary = job.tokenizer(), plan.dataset.vocabulary
    save_model_folder(folder, model, job.options, vocabulary, tokenizer, info)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_model_folder(folder, device, trained_tops)
    table = job.table("validation")
    ranked = rank_table(loaded.model, table, job.reading(), max(plan.recipe.evaluation.ks), device)
    metrics = validation_metrics(ranked, table, job.outside, plan.dataset, plan.recipe)
    chosen = metrics[plan.recipe.training.select_protocol]
    info["k"] = max(plan.recipe.evaluation.ks, key=lambda k: chosen[f"f1_at_{k}"])
    info["metrics"] = metrics["headline"]
    if plan.recipe.training.tag_thresholds:
        write_thresholds(folder, find_thresholds(job, loaded.model, device))
    save_model_folder(folder, loaded.model, job.options, vocabulary, tokenizer, info)
    return metrics


def register_model(
    plan: TrainPlan, run: Run, folder: Path, metrics: dict[Protocol, dict[str, float]], labels: Mapping[str, str | int]
) -> str:
    """Log figures, card and golden outputs, and make the folder a version; its `models:/` URI."""
    for protocol, figures in metrics.items():
        run.log_metrics({f"{VALIDATED}{protocol}.{metric}": value for metric, value in figures.items()})
    ks = plan.recipe.evaluation.ks
    few = main_figures(metrics["headline"], ks)
    run.log_metrics({f"main/{name}": value for name, value in few.items()})
    card = (folder / CARD).read_text(encoding="utf-8")
    run.log_text(card, "model/README.md")
    dataset = plan.dataset
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in few.items())
    description = (
        f"`{plan.recipe.model.family}` trained on {dataset.info.posts.get('train', 0)} posts of {redact(dataset.uri)} "
        f"({dataset.info.content_hash[:12]}).\n\n| validation, protocol headline | |\n|---|---|\n{rows}\n"
    )
    run.set_tags({"mlflow.note.content": description})
    golden = golden_outputs(Recommender.load(str(folder)))
    name = plan.recipe.tracking.model_name
    return register_model_folder(run, folder, name, labels, description=description, golden=golden)


def curves(progress: Progress, select: str) -> Figure:
    """Loss and the selecting metric over the epochs; the best epoch is marked."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [int(row["epoch"]) + 1 for row in progress.history]
    for name in ("train_loss", f"{VALIDATED}loss"):
        left.plot(epochs, [row[name] for row in progress.history], marker=".", label=name.replace("_", " "))
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.plot(epochs, [row[select] for row in progress.history], marker=".")
    right.axvline((progress.best_epoch or 0) + 1, linestyle=":", color="grey")
    right.set(xlabel="epoch", ylabel=select.replace("_", " "))
    return figure
