"""Regions from a detector and from a file, on tiny models saved by `save_pretrained`, against the cells worked by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig, ResNetModel

from hashtag_core.config import EncodersSection, Recipe
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.encoders import Encoders, load_encoders
from hashtag_core.encoders.regions import Precomputed, cells_under
from hashtag_core.errors import ConfigError, HashtagError, IntegrityError, NotFoundError
from hashtag_core.models import InputSpec, create_model, parse_options
from hashtag_core.models.folder import save_model_folder
from hashtag_core.recommend.recommender import Recommender

NEEDS = frozenset({"image_grid", "image_vector"})
LAYERS = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}


def preprocessing(folder: Path, side: int) -> None:
    settings = {"size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(0)
    ResNetModel(ResNetConfig(**LAYERS)).save_pretrained(folder)
    preprocessing(folder, 32)
    return folder


@pytest.fixture(scope="module")
def detr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detr")
    torch.manual_seed(1)
    sizes = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 12, "num_labels": 5}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    backbone = ResNetConfig(**LAYERS, out_features=["stage2"])
    DetrForObjectDetection(DetrConfig(backbone_config=backbone, **sizes, **layers)).save_pretrained(folder)
    preprocessing(folder, 64)
    return folder


def encoders_of(resnet: Path, regions: str, side: int = 3, needs: frozenset[str] = NEEDS) -> Encoders:
    section = EncodersSection(image=f"hf:{resnet}", regions=regions, grid_side=side, backend="torch")
    return load_encoders(section, needs, "cpu")


def pictures(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    return [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(n)]


def test_cells_under_a_box_by_hand() -> None:
    """Two rows of two cells: a box of the left half, of one cell, of a cell and a half, of no area, and the whole."""
    boxes = np.array([[[0, 0, 0.5, 1], [0.5, 0.5, 1, 1], [0, 0, 0.75, 0.5], [0.6, 0.1, 0.6, 0.1], [0, 0, 1, 1]]])
    shares = cells_under(boxes, 2, 2)
    expected = [[0.5, 0, 0.5, 0], [0, 0, 0, 1], [2 / 3, 1 / 3, 0, 0], [0, 1, 0, 0], [0.25] * 4]
    np.testing.assert_allclose(shares[0], expected, atol=1e-6)


def test_a_detectors_regions_are_the_cells_under_its_most_confident_boxes(resnet: Path, detr: Path) -> None:
    encoders = encoders_of(resnet, f"detector:{detr}")
    images = pictures(3)
    found = encoders.encode_images(images)
    assert found["image_grid"].shape == (3, 9, 8)
    assert found["boxes"].shape == (3, 9, 4)
    network = DetrForObjectDetection.from_pretrained(detr).eval()
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    pixels = torch.nn.functional.interpolate(pixels, (64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        output = network(pixel_values=(pixels - 0.5) / 0.5)
    cells = encoders_of(resnet, "grid", side=8).encode_images(images)["image_grid"].astype(np.float32)
    for n in range(3):
        confidence = output.logits[n].softmax(-1)[:, :-1].max(-1).values.numpy()
        for r, query in enumerate(np.argsort(-confidence)[:9]):
            x, y, w, h = output.pred_boxes[n, query].numpy()
            box = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, 1)
            np.testing.assert_allclose(found["boxes"][n, r], box, atol=2e-3)
            mean = cells_under(box[None, None], 8, 8)[0, 0] @ cells[n]
            np.testing.assert_allclose(found["image_grid"][n, r], mean, atol=5e-3)
    assert encoders.identity["regions"]["revision"]
    assert encoders.kinds.keys() == {"image_vector", "image_grid", "boxes"}
    assert encoders.boxes is None
    plain = encoders_of(resnet, "grid").kinds
    assert encoders.kinds["image_grid"].folder != plain["image_grid"].folder
    assert encoders.kinds["image_vector"].folder == plain["image_vector"].folder


def test_fewer_queries_than_regions(resnet: Path, detr: Path) -> None:
    with pytest.raises(ConfigError, match="it finds 12 boxes, 16 regions are asked for"):
        encoders_of(resnet, f"detector:{detr}", side=4)


def test_what_is_no_source_of_regions(resnet: Path, tmp_path: Path) -> None:
    for regions in ("cells", "detector:", "precomputed"):
        with pytest.raises(ConfigError, match="'grid', 'detector:<hf name or folder>' and 'precomputed:<URI>'"):
            encoders_of(resnet, regions)
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        encoders_of(resnet, f"detector:{tmp_path}")
    with pytest.raises(NotFoundError, match=r"none\.parquet"):
        encoders_of(resnet, f"precomputed:{tmp_path}/none.parquet")


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Rows of post ids with regions that follow from them, nested or flat, in row groups of two."""

    def make(ids: list[str], name: str = "regions.parquet", dim: int = 8, flat: bool = False, **wrong: Any) -> Path:
        rows = []
        for post in ids:
            rng = np.random.default_rng(len(post) * 7 + ord(post[-1]))
            boxes, features = rng.random((9, 4)), rng.normal(size=(9, dim))
            values = {"boxes": boxes, "features": features} | wrong
            rows.append({"post_id": post} | {k: (v.ravel() if flat else v).tolist() for k, v in values.items()})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name, row_group_size=2)
        return tmp_path / name

    return make


@pytest.mark.parametrize("flat", [False, True])
def test_precomputed_regions_are_found_by_their_posts(write: Write, flat: bool) -> None:
    source = Precomputed(str(write([f"p{n}" for n in range(5)], flat=flat)), 9)
    assert source.dim == 8
    known, arrays = source.find(["p3", "nobody", "p0"])
    assert known.tolist() == [True, False, True]
    for row, post in ((0, "p3"), (2, "p0")):
        rng = np.random.default_rng(2 * 7 + ord(post[-1]))
        np.testing.assert_allclose(arrays["boxes"][row], rng.random((9, 4)), atol=1e-3)
        np.testing.assert_allclose(arrays["image_grid"][row], rng.normal(size=(9, 8)), atol=2e-3)
    assert not arrays["image_grid"][1].any()
    known, _ = source.find([])
    assert known.shape == (0,)


def test_a_folder_of_files_may_grow(write: Write, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    write(["p1", "p2"], name="all/a.parquet")
    first = Precomputed(str(tmp_path / "all"), 9)
    assert first.find(["p2", "p9"])[0].tolist() == [True, False]
    write(["p9"], name="all/b.parquet")
    second = Precomputed(str(tmp_path / "all"), 9)
    assert second.find(["p2", "p9"])[0].tolist() == [True, True]
    assert first.revision != second.revision


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"boxes": np.ones((9, 3))}, "row 0: boxes: 9 x 4 numbers expected .* found 27"),
        ({"features": np.ones((8, 5))}, "row 0: features: 9 x D, alike in all rows numbers expected .* found 40"),
        ({"boxes": np.full((9, 4), 300.0)}, r"row 0: boxes: .* in \[0, 1\] expected, found 300: divide pixels"),
        ({"features": np.full((9, 8), np.nan)}, "row 0: features: a number is not finite"),
    ],
)
def test_rows_that_are_no_regions(write: Write, wrong: dict[str, np.ndarray], message: str) -> None:
    source = Precomputed(str(write(["p1"], **wrong)), 9)
    with pytest.raises(IntegrityError, match=message):
        source.find(["p1"])


def test_files_that_hold_no_regions(tmp_path: Path) -> None:
    pq.write_table(pa.table({"post_id": ["a"], "boxes": [[0.0]]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="has no column features; it has post_id, boxes"):
        _ = Precomputed(str(tmp_path / "a.parquet"), 9).dim
    (tmp_path / "b.parquet").write_bytes(b"PAR1 of old")
    with pytest.raises(IntegrityError, match="not a Parquet file"):
        _ = Precomputed(str(tmp_path / "b.parquet"), 9).dim
    pq.write_table(pa.table({"post_id": [], "boxes": [], "features": []}), tmp_path / "c.parquet")
    with pytest.raises(HashtagError, match="has no row"):
        _ = Precomputed(str(tmp_path / "c.parquet"), 9).dim


def test_two_widths_of_one_model(write: Write, resnet: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 5 features a region, .* gives vectors of 8, and this model reads both"):
        encoders_of(resnet, f"precomputed:{write(['p1'], dim=5)}")
    alone = encoders_of(resnet, f"precomputed:{write(['p1'], dim=5)}", needs=frozenset({"image_grid"}))
    assert (alone.image, alone.image_dim, alone.regions, alone.image_side_px) == (None, 5, 9, 0)
    assert alone.kinds["image_grid"].shape == (9, 5)


@pytest.mark.parametrize("source", ["precomputed", "detector"])
def test_a_model_tags_by_such_regions(
    source: str, write: Write, resnet: Path, detr: Path, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    """From posts to lists: the regions count, and a post without any is one without a picture."""
    regions = f"precomputed:{write(['p0', 'p1'])}" if source == "precomputed" else f"detector:{detr}"
    recipe = Recipe.model_validate({"encoders": {"image": f"hf:{resnet}", "regions": regions, "grid_side": 3}})
    options = parse_options("show_attend_tell", {"embedding": 8, "hidden": 8, "attention_units": 8})
    encoders = load_encoders(recipe.encoders, frozenset({"image_grid"}), "cpu")
    torch.manual_seed(0)
    model = create_model("show_attend_tell", InputSpec(5, image_dim=encoders.image_dim, regions=9), options)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(0, 1)
    vocabulary = Vocabulary([f"tag{n}" for n in range(5)], np.arange(5, 0, -1), posts=5)
    info = {"name": "toy", "recipe": recipe.model_dump(mode="json"), "encoders": encoders.identity}
    save_model_folder(tmp_path / "model", model, options, vocabulary, None, info)
    posts = [{"post_id": f"p{n}", "image": make_jpeg(n)} for n in range(3)] + [{"post_id": "p0x"}]
    scores = Recommender.load(str(tmp_path / "model"), "cpu").recommend(posts, top_k=5)["scores"].to_pylist()
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)
    without = scores[3]
    assert scores[0] != pytest.approx(without, abs=1e-4)
    assert (scores[2] == pytest.approx(without, abs=1e-6)) is (source == "precomputed")
