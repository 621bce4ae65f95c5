"""The playground's page and answers, through its own application; no browser (see tests/browser)."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from hashtag_core.recommend.recommender import Recommender
from jobs import playground


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> TestClient:
    folders = [make_model_folder(tmp_path_factory.mktemp("models") / f"toy{seed}", seed=seed) for seed in (0, 1)]
    models = [(f"toy{n}", Recommender.load(str(folder))) for n, folder in enumerate(folders)]
    return TestClient(playground.application(models), base_url="http://127.0.0.1:8765")


def ask(client: TestClient, **asked: Any) -> Any:
    return client.post("/recommend", json=asked)


def test_every_model_answers_for_itself(client: TestClient, make_jpeg: Callable[..., bytes]) -> None:
    image = base64.b64encode(make_jpeg(1)).decode()
    first, second = ask(client, image=image, caption="a red bird", top_k=3).json()["answers"]
    assert [first["model"], second["model"]] == ["linear · toy0", "linear · toy1"]
    assert first["status"] == "ok"
    assert [tag["hashtag"] for tag in first["hashtags"]] != [tag["hashtag"] for tag in second["hashtags"]]
    assert len(first["hashtags"]) == 3
    (alone,) = ask(client, caption="a red bird", top_k=1, models=[1]).json()["answers"]
    assert (alone["model"], alone["status"], alone["detail"]) == ("linear · toy1", "image_missing", None)


def test_a_broken_picture_is_told(client: TestClient, make_jpeg: Callable[..., bytes]) -> None:
    image = base64.b64encode(make_jpeg(1)[:200]).decode()
    (answer,) = ask(client, image=image, caption="a red bird", models=[0]).json()["answers"]
    assert answer["status"] == "image_unreadable"
    assert "truncated" in answer["detail"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"image": "%%%"}, "not a question"),
        ({"top_k": 0}, "top_k: expected a number from 1 to 100, found 0"),
        ({"top_k": True}, "top_k"),
        ({"models": [2]}, "models: expected places from 0 to 1"),
        ({"caption": "x" * 10_001}, "at most 10,000 characters"),
        ({"caption": 3}, "caption"),
        ({"path": "/etc/passwd"}, "expected an object of"),
    ],
)
def test_a_wrong_question_is_refused(client: TestClient, asked: dict[str, Any], told: str) -> None:
    reply = ask(client, **asked)
    assert reply.status_code == 400
    assert told in reply.json()["error"]


def test_a_large_upload_is_refused_before_it_is_whole(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground, "MOST_BYTES", 1000)
    reply = ask(client, image="A" * 200_000)
    assert reply.status_code == 400
    assert "take a smaller picture" in reply.json()["error"]


def test_another_site_cannot_ask(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example:8765"}).status_code == 400
    assert client.post("/recommend", content="{}", headers={"content-type": "text/plain"}).status_code == 400


def test_the_page_fetches_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert not re.search(r"(src|href)=\"?(https?:)?//|@import|url\(", page.text)
    policy = page.headers["content-security-policy"]
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
    assert nonce
    assert page.text.count(f'nonce="{nonce[1]}"') == 2
    assert "unsafe" not in policy


def test_a_port_that_is_taken_is_told(client: TestClient) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind((playground.HOST, 0))
        taken.listen()
        with pytest.raises(playground.UsageError, match="take another one"):
            playground._serve(client.app, taken.getsockname()[1])  # type: ignore[arg-type]
