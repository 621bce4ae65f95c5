"""Each paper recipe goes its whole way: prepared by its own recipe, encoded, trained by Ray Train (stopped by Ctrl-C after an epoch, and
resumed), evaluated, tagged. The networks are small ones of the same architecture, saved by `save_pretrained`; everything else is the
recipe's own but for the number of epochs and LXMERT's width. `make soak` does each on one and on two workers."""

import json
import logging
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t

from hashtag_core.config import Recipe, read_recipe
from hashtag_core.distributed.evaluate import evaluate
from hashtag_core.distributed.prepare import prepare
from hashtag_core.distributed.tag import tag
from hashtag_core.distributed.train import train
from hashtag_core.models import family
from hashtag_core.models.base import FittedModel
from hashtag_core.preparation.plan import plan_prepare
from hashtag_core.tagging.plan import plan_tagging
from hashtag_core.tagging.planned_work import TagRequest
from hashtag_core.tracking.registry import resolve_model
from tests.tagging.outputs import rows_by_table

SOAK = "SOAK_KILLS" in os.environ
RECIPES = Path(__file__).resolve().parents[2] / "jobs" / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.toml") if not path.stem.endswith(("_small", "sample")))
LEARNED = [name for name in NAMES if not issubclass(family(name), FittedModel)]
CASES = [(name, workers) for name in NAMES for workers in ((1, 2) if name in LEARNED else (1,))]
DATA = {"okboomer": "okboomer", "lxmert4hashtag": "lxmert4hashtag", "design": "design", "macon": "design", "tagnet": "design",
        "user_frequency": "design", "regression_kriging": "design"}  # fmt: skip
"""Which of `recipes/prepare` a family's data are made by; AMNN's else."""
EPOCHS, POSTS, SIDE = 3, 90, 32
WORDS = [
    "red",
    "green",
    "blue",
    "round",
    "square",
    "bright",
    "quiet",
    "early",
    "late",
    "harbour",
    "forest",
    "garden",
    "window",
    "river",
    "mountain",
    "street",
]


def _resnet(folder: Path) -> None:
    config = t.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])
    t.ResNetModel(config).save_pretrained(folder)
    _preprocessing(folder)


def _vit(folder: Path) -> None:
    # DESIGN's recipe says how wide a ViT's regions are.
    sizes = {"hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    t.ViTModel(t.ViTConfig(**sizes, image_size=SIDE, patch_size=8)).save_pretrained(folder)
    _preprocessing(folder)


def _bert(folder: Path) -> None:
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    t.BertTokenizer(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    t.BertModel(t.BertConfig(**sizes, vocab_size=len(vocabulary))).save_pretrained(folder)


def _lxmert(folder: Path) -> None:
    """The article's 9/5/5 layers, 32 wide, for MiniLM's words, which are bert-base-uncased's, and regions 8 wide."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "visual_feat_dim": 8}
    t.LxmertModel(t.LxmertConfig(**sizes, vocab_size=30522, l_layers=9, r_layers=5, x_layers=5)).save_pretrained(folder)


def _detr(folder: Path) -> None:
    """36 boxes, as the article has."""
    sizes = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 40, "num_labels": 5}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    backbone = t.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], out_features=["stage2"])
    t.DetrForObjectDetection(t.DetrConfig(backbone_config=backbone, **sizes, **layers)).save_pretrained(folder)
    _preprocessing(folder)


def _preprocessing(folder: Path) -> None:
    settings = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network of each architecture, and word vectors as GloVe's file has them."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    for name, make in {"resnet": _resnet, "vit": _vit, "bert": _bert, "lxmert": _lxmert, "detr": _detr}.items():
        make(folder / name)
    rng = np.random.default_rng(0)
    lines = [f"{word} {' '.join(f'{number:.4f}' for number in rng.normal(size=300))}" for word in WORDS]
    (folder / "glove.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _post(n: int, jpeg: bytes) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    words = [WORDS[at] for at in rng.choice(len(WORDS), 7, replace=False)]
    return {
        "post_id": f"p{n:03d}",
        "user_id": f"u{n % 7}",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=n),
        "caption": " ".join(words),
        "hashtags": [*words[:5], "everywhere"],
        "image": jpeg,
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, make_jpeg: Any, write_archive: Any) -> str:
    posts = [_post(n, make_jpeg(n)) for n in range(POSTS)]
    return str(write_archive(tmp_path_factory.mktemp("papers") / "archive", posts))


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")
        yield


_datasets: dict[str, str] = {}


def dataset_of(name: str, archive: str) -> str:
    """Prepared once by each recipe; of the archive's own layout and with a cut that so few posts pass."""
    made_by = DATA.get(name, "amnn")
    if made_by not in _datasets:
        uri = f"{Path(archive).parent}/{made_by}"
        changes = ["archive.format=posts", "vocabulary.min_count=2", "split.validation=0.15", "split.test=0.15"]
        prepare(plan_prepare(read_recipe(RECIPES / "prepare" / f"{made_by}.toml", changes), archive, uri))
        _datasets[made_by] = uri
    return _datasets[made_by]


def recipe_of(name: str, networks: Path, folder: Path, workers: int, *changes: str) -> Recipe:
    """The recipe with small networks in place of those that it names."""
    path = RECIPES / f"{name}.toml"
    section = read_recipe(path).encoders
    changed = [f"training.storage={folder}/runs", f"training.workers={workers}", *changes]
    if name in LEARNED:
        changed.append(f"training.epochs={EPOCHS}")
    if section.image.startswith(("hf:", "vgg16", "inception")):
        changed.append(f"encoders.image=hf:{networks}/{'vit' if 'vit' in section.image else 'resnet'}")
    if section.image_second is not None:
        changed.append(f"encoders.image_second=hf:{networks}/vit")
    if section.text.startswith("hf:"):
        changed.append(f"encoders.text=hf:{networks}/bert")
    if name == "lxmert4hashtag":
        changed += [f"model.start=hf:{networks}/lxmert", "model.hidden=32", "model.heads=4", "model.intermediate=64"]
        changed.append(f"encoders.regions=detector:{networks}/detr")
    if name == "okboomer":
        changed.append(f"model.word_vectors={networks}/glove.txt")
    return read_recipe(path, changed)


class _InterruptAfterAnEpoch(logging.Handler):
    """Ctrl-C, once, when the driver tells of the first epoch."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.sent = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.sent and f"epoch 1/{EPOCHS}" in record.getMessage():
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)


def trained_in_two(recipe: Recipe, dataset: str) -> Any:
    """What a training gives that was interrupted after its first epoch and resumed."""
    interrupt = _InterruptAfterAnEpoch()
    logger = logging.getLogger("hashtag_core")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt, match="--resume") as stopped:
            train(recipe, dataset)
    finally:
        logger.removeHandler(interrupt)
        logger.setLevel(before)
    words = str(stopped.value).split()
    summary = train(recipe, dataset, words[words.index("--resume") + 1].strip("`"))
    assert summary.epochs == EPOCHS
    return summary


_models: dict[str, str] = {}


@pytest.mark.slow
@pytest.mark.skipif(not SOAK, reason="a minute each: make soak")
@pytest.mark.parametrize(("name", "workers"), CASES, ids=[f"{name}-{n}" for name, n in CASES])
def test_its_whole_way(name: str, workers: int, networks: Path, archive: str, tmp_path: Path) -> None:
    dataset = dataset_of(name, archive)
    of_amnn = [f"model.amnn_model={_models['amnn']}"] if name in ("neighbor_voting", "svm") else []
    recipe = recipe_of(name, networks, tmp_path, workers, *of_amnn)
    summary = trained_in_two(recipe, dataset) if name in LEARNED else train(recipe, dataset)
    assert summary.metrics["f1_at_5"] >= 0
    _models[name] = str(resolve_model(summary.model).folder)
    report = evaluate(dataset, [summary.model], str(tmp_path / "report"), recipe)
    judged = report["models"][0]["metrics"]
    assert set(judged) >= {"f1_at_5", "precision_at_1"}
    tag(
        plan_tagging(
            TagRequest(Recipe.model_validate({}), archive, str(tmp_path / "out"), resolve_model(summary.model))
        )
    )
    rows = rows_by_table(tmp_path / "out")
    assert len(rows) == POSTS
    assert all(row["status"] == "ok" and row["hashtags"] for row in rows)
