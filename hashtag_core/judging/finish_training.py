"""What becomes of a trained model: its folder, its figures, a registered version, and what people read of it."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_model

from hashtag_core import storage
from hashtag_core.data.model_record import EncodersIdentity, ModelInfo
from hashtag_core.encoders import load_encoders
from hashtag_core.encoders.trained import trained_tops
from hashtag_core.evaluation.metrics import Protocol
from hashtag_core.evaluation.report import main_figures
from hashtag_core.judging.find_thresholds import find_thresholds
from hashtag_core.judging.validation import rank_table, validation_metrics
from hashtag_core.models.base import FittedModel, TagModel
from hashtag_core.models.folder import CARD, load_model_folder, save_model_folder
from hashtag_core.models.registry import create_model, family
from hashtag_core.recommend.policy import write_thresholds
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.recommend.served import GoldenOutputs, golden_outputs
from hashtag_core.redaction import redact
from hashtag_core.tracking.provenance import commit_of, source_tags
from hashtag_core.tracking.registry import register_model_folder
from hashtag_core.tracking.runs import Run
from hashtag_core.training.checkpoint import WEIGHTS, Progress
from hashtag_core.training.job import VALIDATED, TrainJob, check_disk, fit_model
from hashtag_core.training.loader import TableFitSource
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


@dataclass(frozen=True)
class Finished:
    """What is told of a model that is done, beside its folder."""

    figures: dict[str, float]
    """Of its fitting, if it was fitted, and of its calibration."""
    metrics: dict[Protocol, dict[str, float]]
    """Of the validation split."""
    parameters: int
    """Numbers in the weights file, buffers included."""
    k: int
    """The length of list with the best F1."""
    golden: GoldenOutputs


@dataclass(frozen=True)
class FinishModel:
    """The last step of a training, for a process that has the memory for it: a model of the family is fitted, or takes the weights
    of the best epoch, is calibrated, saved, judged on the validation split and asked for its golden outputs."""

    job: TrainJob
    info: ModelInfo
    checkpoint: str | None = None
    """URI of the best epoch's checkpoint; None for a family that is fitted once."""
    base: TagModel | None = None
    """What a fitted model is built on, for a family that is."""

    def __call__(self, folder: Path) -> Finished:
        """Write the model folder, what can be given with thresholds in it where the recipe asks for them."""
        job, info = self.job, self.info.copy()
        check_disk(job)
        model, figures = fit_model(job, tag_text_of(job), self.base) if self.checkpoint is None else self._trained()
        tokenizer, vocabulary = job.tokenizer(), job.dataset.vocabulary
        save_model_folder(folder, model, job.options, vocabulary, tokenizer, info)
        parameters = sum(value.numel() for value in model.state_dict().values())
        del model
        # What is judged is what can be loaded.
        loaded = load_model_folder(folder, _device(), trained_tops)
        table, recipe = job.table("validation"), job.recipe
        ranked = rank_table(loaded.model, table, job.reading(), max(recipe.evaluation.ks), _device())
        metrics = validation_metrics(ranked, table, job.outside, job.dataset, recipe)
        chosen = metrics[recipe.training.select_protocol]
        info["k"] = k = max(recipe.evaluation.ks, key=lambda k: chosen[f"f1_at_{k}"])
        info["metrics"] = metrics["headline"]
        if recipe.training.tag_thresholds:
            write_thresholds(folder, find_thresholds(job, loaded.model, _device()))
        save_model_folder(folder, loaded.model, job.options, vocabulary, tokenizer, info)
        del loaded
        return Finished(figures, metrics, parameters, k, golden_outputs(Recommender.load(str(folder))))

    def _trained(self) -> tuple[TagModel, dict[str, float]]:
        """With the weights of the checkpoint, calibrated on the validation split."""
        assert self.checkpoint is not None
        model = self.job.model()
        with tempfile.TemporaryDirectory(prefix="hashtag-best-") as name:
            storage.download_file(storage.join(self.checkpoint, WEIGHTS), Path(name, WEIGHTS))
            load_model(model, str(Path(name, WEIGHTS)))
        model.eval().to(_device())
        with torch.no_grad():
            return model, model.calibrate(TableFitSource(self.job.table("validation"), self.job.reading()))


@dataclass(frozen=True)
class FitFloor:
    """A family that is fitted once, with its defaults, as a model folder; neither calibrated nor judged."""

    job: TrainJob
    info: ModelInfo

    def __call__(self, folder: Path) -> None:
        job = self.job
        model = create_model(job.family, job.spec, job.options)
        if not isinstance(model, FittedModel):
            raise TypeError(f"{job.family} is not fitted once")
        model.fit(TableFitSource(job.train_table(), job.reading()), seed=job.recipe.training.seed)
        save_model_folder(folder, model, job.options, job.dataset.vocabulary, job.tokenizer(), self.info)


def tag_text_of(job: TrainJob) -> np.ndarray | None:
    """The tags' own words through the text encoder [V, D_t], for a family that reads them."""
    if not family(job.family).reads_tag_text(job.options):
        return None
    return load_encoders(job.recipe.encoders, job.needs, "cpu").encode_tags(job.dataset.vocabulary.tags)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def register_model(plan: TrainPlan, run: Run, folder: Path, finished: Finished, labels: Mapping[str, str | int]) -> str:
    """Log figures, card and golden outputs, and make the folder a version; its `models:/` URI."""
    metrics = finished.metrics
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
    name = plan.recipe.tracking.model_name
    return register_model_folder(run, folder, name, labels, description=description, golden=finished.golden)


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
