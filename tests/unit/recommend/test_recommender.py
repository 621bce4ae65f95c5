"""Posts to TAGGED through the real encoders; the model's weights are random."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from hashtag_core import storage
from hashtag_core.data.images import image_key
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.recommend.image_uris import ImagePlaces
from hashtag_core.recommend.read_posts import OpenedPosts
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.schema import POST, TAGGED


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "toy")


@pytest.fixture(scope="module")
def recommender(folder: Path) -> Recommender:
    return Recommender.load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def troubled(make_jpeg: Callable[..., bytes]) -> list[dict[str, Any]]:
    whole = make_jpeg(1)
    return [
        {"post_id": "fine", "caption": "a red bird #bird", "image": whole},
        {"post_id": "no image", "caption": "a red bird"},
        {"post_id": "cut", "caption": "a red bird", "image": make_jpeg(2, width=200, height=200)[:900]},
        {"post_id": "html", "caption": "a red bird", "image": b"<html>not found</html>"},
        {"post_id": "zero", "caption": "a red bird", "image": b""},
        {"post_id": "no caption", "image": whole},
        {"post_id": "only tags", "caption": "#bird #red", "image": whole},
        {"post_id": "nothing", "caption": "   "},
        {"post_id": "cut alone", "image": whole[:300]},
        {"post_id": "elsewhere", "caption": "a red bird", "image_uri": "file:///etc/passwd"},
    ]


def test_every_trouble_has_its_status(recommender: Recommender, troubled: list[dict[str, Any]]) -> None:
    tagged = recommender.recommend(troubled, top_k=5)
    assert tagged.schema.equals(TAGGED)
    assert tagged["post_id"].to_pylist() == [post["post_id"] for post in troubled]
    assert dict(zip(tagged["post_id"].to_pylist(), tagged["status"].to_pylist(), strict=True)) == {
        "fine": "ok",
        "no image": "image_missing",
        "cut": "image_unreadable",
        "html": "image_unreadable",
        "zero": "image_unreadable",
        "no caption": "caption_missing",
        "only tags": "caption_missing",
        "nothing": "empty",
        "cut alone": "empty",
        "elsewhere": "image_missing",
    }
    details = dict(zip(tagged["post_id"].to_pylist(), tagged["detail"].to_pylist(), strict=True))
    assert details["fine"] is None
    assert details["no image"] == "no image"
    assert "truncated" in details["cut"]
    assert "<html>" in details["html"]
    assert details["only tags"] == "nothing is left of the caption"
    assert details["nothing"] == "no image; no caption"
    assert "expected s3:// or a path below the archive" in details["elsewhere"]


def test_lists_are_whole_sorted_and_in_range(recommender: Recommender, troubled: list[dict[str, Any]]) -> None:
    tagged = recommender.recommend(troubled, top_k=7)
    for tags, scores in zip(tagged["hashtags"].to_pylist(), tagged["scores"].to_pylist(), strict=True):
        assert len(set(tags)) == len(tags) == len(scores) == 7
        assert scores == sorted(scores, reverse=True)
        assert all(0.0 <= score <= 1.0 for score in scores)
    assert recommender.recommend(troubled[:1], top_k=1000)["hashtags"].to_pylist()[0][40:] == []


def test_what_is_missing_is_absent_to_the_model(recommender: Recommender, troubled: list[dict[str, Any]]) -> None:
    tagged = recommender.recommend(troubled, top_k=40)
    tags = dict(zip(tagged["post_id"].to_pylist(), tagged["scores"].to_pylist(), strict=True))
    assert tags["no image"] == pytest.approx(tags["cut"], abs=1e-6)
    assert tags["no image"] == pytest.approx(tags["elsewhere"], abs=1e-6)
    assert tags["no caption"] == pytest.approx(tags["only tags"], abs=1e-6)
    assert tags["nothing"] == pytest.approx(tags["cut alone"], abs=1e-6)
    assert tags["fine"] != pytest.approx(tags["no image"], abs=1e-3)


def test_scores_are_those_of_the_model_on_the_encoders_output(
    recommender: Recommender, make_jpeg: Callable[..., bytes]
) -> None:
    """The whole path against the parts put together by hand, for one post."""
    from hashtag_core.data.images import decode_image

    encoders, model = recommender.encoders, recommender.loaded.model
    image = encoders.encode_images([decode_image(make_jpeg(3), encoders.image_side_px)])["image_vector"][0].astype(
        np.float32
    )
    text = encoders.encode_captions(["a small boat"])["text_vector"][0].astype(np.float32)
    unit = [vector / np.linalg.norm(vector) for vector in (text, image)]
    row = np.concatenate([unit[0], [1.0], unit[1], [1.0]]).astype(np.float32) - model.mean_D.numpy()
    values = row @ model.weight_DV.numpy() + model.bias_V.numpy()
    expected = 1 / (1 + np.exp(-(values * float(model.calibration[0]) + float(model.calibration[1]))))
    tagged = recommender.recommend([{"post_id": "1", "caption": "a small boat #sea", "image": make_jpeg(3)}], top_k=40)
    order = np.argsort(-expected, kind="stable")
    np.testing.assert_allclose(tagged["scores"].to_pylist()[0], expected[order], atol=1e-5)


def test_numbers_do_not_hang_on_the_batch(recommender: Recommender, make_posts: Callable) -> None:
    posts = make_posts(70)
    whole = recommender.recommend(posts, top_k=40)
    alone = pa.concat_tables([recommender.recommend([post], top_k=40) for post in posts[::10]])
    for one, many in zip(alone.to_pylist(), whole.take(list(range(0, 70, 10))).to_pylist(), strict=True):
        by_tag = dict(zip(many["hashtags"], many["scores"], strict=True))
        assert [by_tag[tag] for tag in one["hashtags"]] == pytest.approx(one["scores"], abs=5e-3)


def test_a_cache_gives_the_same_tags_and_spares_the_encoders(
    recommender: Recommender,
    make_posts: Callable,
    troubled: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posts = make_posts(6) + troubled
    cache = recommender.encoders.open_cache(str(tmp_path / "cache"))
    opened = recommender.open_posts(recommender_table(posts))
    features = recommender.featurize(opened)
    held = [row for row, post in enumerate(posts) if opened.images[row] is not None]
    cache.write("image_vector", [image_key(posts[r]["image"]) for r in held], features.arrays["image_vector"][held])
    texts = {c: row for row, c in enumerate(opened.captions) if c is not None}
    cache.write(
        "text_vector", [image_key(c.encode()) for c in texts], features.arrays["text_vector"][list(texts.values())]
    )
    cache.write_unreadable("image_vector", {image_key(b"<html>not found</html>"): "not an image"})
    plain = recommender.recommend(posts, top_k=40)
    cached = recommender.recommend(posts, top_k=40, cached=cache)
    assert cached.drop_columns("detail").equals(plain.drop_columns("detail"))
    seen = []
    monkeypatch.setattr(
        type(recommender.encoders), "encode_images", lambda self, images: seen.append(len(images)) or {}
    )
    monkeypatch.setattr(
        type(recommender.encoders), "encode_captions", lambda self, captions: seen.append(len(captions)) or {}
    )
    recommender.recommend(posts, top_k=5, cached=cache)
    assert sum(seen) == 0
    partly = recommender.encoders.open_cache(str(tmp_path / "empty"))
    monkeypatch.undo()
    assert recommender.recommend(posts, top_k=40, cached=partly).equals(plain)


def test_a_model_of_two_image_encoders(tmp_path: Path, make_posts: Callable) -> None:
    """Encoded, from a cache, and refused where the second encoder is another one."""
    from hashtag_core.config import EncodersSection
    from hashtag_core.data.vocabulary import Vocabulary
    from hashtag_core.encoders import load_encoders
    from hashtag_core.models import InputSpec, create_model, parse_options
    from hashtag_core.models.folder import save_model_folder

    options = parse_options("vgg_object_scene", {"scene": "second", "hidden": 8})
    section = EncodersSection(image_second="efficientnet_lite0", backend="torch")
    encoders = load_encoders(section, frozenset({"image_vector", "image_vector_second"}), "cpu", threads=1)
    spec = InputSpec(4, image_dim=encoders.image_dim, image_second_dim=encoders.image_second_dim)
    torch.manual_seed(0)
    model = create_model("vgg_object_scene", spec, options)
    info = {"name": "two", "recipe": {"encoders": section.model_dump()}, "encoders": encoders.identity}
    vocabulary = Vocabulary(list("abcd"), np.arange(4, 0, -1), posts=4)
    save_model_folder(tmp_path / "model", model, options, vocabulary, None, info)
    recommender = Recommender.load(str(tmp_path / "model"), device="cpu", threads=1)
    posts = [*make_posts(2), {"post_id": "none", "caption": "no picture"}]
    plain = recommender.recommend(posts, top_k=4)
    assert plain["status"].to_pylist() == ["ok", "ok", "image_missing"]
    features = recommender.featurize(recommender.open_posts(recommender_table(posts)))
    batch = features.arrays["image_vector_second"]
    assert np.array_equal(batch, features.arrays["image_vector"])
    assert not batch[2].any()
    cache = recommender.encoders.open_cache(str(tmp_path / "cache"))
    for kind in ("image_vector", "image_vector_second"):
        cache.write(kind, [image_key(post["image"]) for post in posts[:2]], features.arrays[kind][:2])
    assert recommender.recommend(posts, top_k=4, cached=cache).equals(plain)
    path = tmp_path / "model" / "model.json"
    described = json.loads(path.read_text())
    described["encoders"]["image_second"]["revision"] = "0" * 64
    path.write_text(json.dumps(described))
    with pytest.raises(IntegrityError, match="another image_second encoder"):
        Recommender.load(str(tmp_path / "model"), device="cpu")


def recommender_table(posts: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{**dict.fromkeys(POST.names), **post} for post in posts], schema=POST)


def test_tables_and_dicts_are_alike(recommender: Recommender, make_posts: Callable) -> None:
    posts = make_posts(3)
    table = pa.Table.from_pylist(posts, schema=POST)
    assert recommender.recommend(table).equals(recommender.recommend(posts))
    assert recommender.recommend([]).num_rows == 0
    assert recommender.recommend(table.slice(0, 0)).schema.equals(TAGGED)


def test_wrong_input_is_told(recommender: Recommender) -> None:
    with pytest.raises(ConfigError, match="row 1 is no post: post_id"):
        recommender.recommend([{"post_id": "a"}, {"caption": "b"}])
    with pytest.raises(ConfigError, match="top_k: expected at least 1"):
        recommender.recommend([{"post_id": "a"}], top_k=0)
    with pytest.raises(ConfigError, match="row 1 is no post: caption: expected string, found 1"):
        recommender.recommend([{"post_id": "a", "caption": "x"}, {"post_id": "b", "caption": 1}])


def test_images_by_reference(
    recommender: Recommender,
    make_jpeg: Callable[..., bytes],
    tmp_path: Path,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recommender, "places", ImagePlaces(prefixes=(s3_bucket,)))
    archive = tmp_path / "archive"
    for root in (str(archive), s3_bucket):
        storage.write_bytes(f"{root}/pictures/é 1.jpg", make_jpeg(1))
    (tmp_path / "secret.jpg").write_bytes(make_jpeg(2))
    (archive / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    inside = ["pictures/é 1.jpg", f"{s3_bucket}/pictures/é 1.jpg"]
    outside = [
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "link.jpg",
        "http://169.254.169.254/x.jpg",
        "gone.jpg",
        f"{s3_bucket}/gone.jpg",
    ]
    posts = [{"post_id": str(n), "caption": "x", "image_uri": uri} for n, uri in enumerate(inside + outside)]
    statuses = recommender.recommend(posts, archive=str(archive))["status"].to_pylist()
    assert statuses == ["ok"] * 2 + ["image_missing"] * 6
    assert recommender.recommend(posts, archive=s3_bucket)["status"].to_pylist()[:3] == ["ok", "ok", "image_missing"]
    absolute = [{"post_id": "0", "caption": "x", "image_uri": f"file://{archive}/pictures/é 1.jpg"}]
    assert recommender.recommend(absolute, archive=str(archive))["status"].to_pylist() == ["ok"]


def test_name_and_version(recommender: Recommender, folder: Path) -> None:
    described = json.loads((folder / "model.json").read_text())
    row = recommender.recommend([{"post_id": "a"}]).to_pylist()[0]
    assert (row["model_name"], row["model_version"]) == ("toy", described["version"])


def test_another_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    storage.download_folder(str(folder), copy)
    described = json.loads((copy / "model.json").read_text())
    described["encoders"]["image"]["revision"] = "0" * 64
    (copy / "model.json").write_text(json.dumps(described))
    with pytest.raises(IntegrityError, match=r"another image encoder than is here \(revision: '0000") as caught:
        Recommender.load(str(copy), device="cpu")
    assert json.loads((folder / "model.json").read_text())["encoders"]["image"]["revision"] in str(caught.value)


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(NotFoundError, match="/no/such/model"):
        Recommender.load("/no/such/model")


def test_a_score_that_is_no_number_is_told(folder: Path) -> None:
    broken = Recommender.load(str(folder), device="cpu")
    broken.loaded.model.bias_V[3] = torch.nan
    with pytest.raises(IntegrityError, match="a score of post 'p' is not finite"):
        broken.recommend([{"post_id": "p"}])


def test_opened_posts_are_joined_and_selected() -> None:
    posts = OpenedPosts(["a"], [None], ["x"], [None], [None], ["ok"], [None])
    posts.extend(OpenedPosts(["b"], ["u"], [None], [None], [None], ["empty"], ["why"]))
    assert len(posts) == 2
    assert posts.select([1]) == OpenedPosts(["b"], ["u"], [None], [None], [None], ["empty"], ["why"])


def test_importing_the_package_is_cheap(repository: Path) -> None:
    code = "import sys, hashtag_core; print(sorted({'torch', 'ray', 'mlflow', 'pandas'} & set(sys.modules))); hashtag_core.Recommender; print(sorted({'torch', 'transformers', 'sklearn', 'faiss'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "['torch']"]


def test_it_says_where_a_tag_comes_from(
    recommender: Recommender, make_model_folder: Callable[..., Path], make_posts: Callable, tmp_path: Path
) -> None:
    """The amounts of a tag add up to its score, and the posts that are named are those of its user's history."""
    explaining = Recommender.load(str(make_model_folder(tmp_path, "regression_kriging")), device="cpu")
    posts = [
        {**post, "created_at": datetime.fromtimestamp(post["created_at"] / 1e6, UTC)}
        for post in make_posts(12, users=2)
    ]
    table = explaining.recommend(posts, top_k=4, explain=True)
    assert table.drop_columns("explanation").schema == TAGGED
    users = {post["post_id"]: post["user_id"] for post in posts}
    named = 0
    for row in table.to_pylist():
        assert [part["hashtag"] for part in row["explanation"]] == row["hashtags"]
        for part, score in zip(row["explanation"], row["scores"], strict=True):
            single = sum(part[name] or 0 for name in ("base", "image", "caption", "tag_text"))
            total = single + sum(post["amount"] for post in part["history"] + part["neighbours"])
            assert 1 / (1 + np.exp(-total)) == pytest.approx(score, abs=1e-5)
            assert {users[post["post_id"]] for post in part["history"]} <= {users[row["post_id"]]}
            assert row["post_id"] not in {post["post_id"] for post in part["history"]}
            amounts = [abs(post["amount"]) for post in part["history"]]
            assert amounts == sorted(amounts, reverse=True)
            named += len(amounts)
    assert named
    assert table.drop_columns("explanation").equals(explaining.recommend(posts, top_k=4))
    by_linear = recommender.recommend(posts, top_k=4, explain=True).to_pylist()[0]
    first = by_linear["explanation"][0]
    total = first["base"] + first["image"] + first["caption"]
    assert 1 / (1 + np.exp(-total)) == pytest.approx(by_linear["scores"][0], abs=1e-5)
    assert first["history"] == first["neighbours"] == []
    popular = Recommender.load(str(make_model_folder(tmp_path / "popular", "popularity")), device="cpu")
    with pytest.raises(
        ConfigError, match="popularity does not say where a tag comes from; linear, regression_kriging do"
    ):
        popular.recommend(posts, explain=True)


def test_tags_that_are_known_by_name_alone(
    recommender: Recommender, make_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """They stand behind the others, are found in histories, and one that the caption speaks of comes before one that it does not."""
    adding = Recommender.load(str(make_model_folder(tmp_path, "regression_kriging")), device="cpu")
    assert adding.add_tags(["#Sailing-Boat"[:8], "spreadsheet", "tag001", "sailing"]) == ["sailing", "spreadsheet"]
    assert adding.tags[-3:] == ["tag039", "sailing", "spreadsheet"]
    model = adding.loaded.model
    for mixture_CJ in (model.mixture_CJ, model.new_mixture_CJ):
        mixture_CJ.zero_()
        mixture_CJ[-2, 0] = 5.0  # the tags' words alone
    model.tag_text_TV[:, :40] = 0
    model.tag_offset_V.zero_()
    [row] = adding.recommend([{"post_id": "1", "caption": "a yacht with white sails on the sea"}], top_k=42).to_pylist()
    assert row["hashtags"][0] == "sailing"
    assert set(row["hashtags"]) == set(adding.tags)
    for mixture_CJ in (model.mixture_CJ, model.new_mixture_CJ):
        mixture_CJ.zero_()
        mixture_CJ[4, 0] = 5.0  # what the user tagged before
    past = {"user_id": "u", "created_at": datetime(2020, 1, 1, tzinfo=UTC), "caption": "x", "hashtags": ["spreadsheet"]}
    now = {"post_id": "2", "user_id": "u", "created_at": datetime(2021, 1, 1, tzinfo=UTC), "caption": "figures"}
    [row] = adding.recommend([now], top_k=1, history=[{"post_id": "1", **past}]).to_pylist()
    assert row["hashtags"] == ["spreadsheet"]
    assert adding.add_tags(["sailing"]) == []
    with pytest.raises(ConfigError, match="'#' is no hashtag"):
        adding.add_tags(["#"])
    with pytest.raises(
        ConfigError, match="linear does not read what tags are called; regression_kriging with captions does"
    ):
        recommender.add_tags(["sailing"])
