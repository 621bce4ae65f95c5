"""Pictures at addresses of the web, through the jobs: refused in words by default, fetched from a host that is named."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hashtag_core.config import Recipe
from hashtag_core.errors import HashtagError
from hashtag_core.storage import web
from jobs import prepare as prepare_job
from jobs import recommend as recommend_job
from tests.tagging.outputs import rows_by_glob, run
from tests.web_server import Server

pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture
def server(make_jpeg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(web, "PATIENCE_S", 0.01)
    running = Server()
    running.pictures = {f"/{n}.jpg": make_jpeg(n) for n in range(6)}
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def archive(server: Server, tmp_path: Path) -> Path:
    """Ten posts: six pictures that are there, one that is gone, one broken off, one of another host, one without."""
    at = f"http://127.0.0.1:{server.port}"
    urls = [*(f"{at}/{n}.jpg" for n in range(6)), f"{at}/status/404", f"{at}/cut", "https://cdn.example.org/9.jpg", ""]
    folder = tmp_path / "archive"
    folder.mkdir()
    rows = "".join(f"{n},a bird {n},{url}\n" for n, url in enumerate(urls))
    (folder / "posts.csv").write_text(f"id,text,image_url\n{rows}")
    return folder


def host_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def recipe(*hosts: str) -> Recipe:
    section = {"format": "csv", "image_hosts": list(hosts)}
    return Recipe.model_validate({"archive": section, "tagging": {"chunk_rows": 4, "actors": 1}})


def test_tagging_fetches_from_a_named_host_and_tells_of_the_rest(
    archive: Path, server: Server, popularity: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(archive, tmp_path / "none", popularity, recipe()).tagged == 10
    assert not server.asked
    for row in rows_by_glob(tmp_path / "none"):
        assert (row["status"], "--image-host" in (row["detail"] or "")) == ("image_missing", row["post_id"] != "9")
    summary = run(archive, tmp_path / "out", popularity, recipe(host_of(server)))
    assert (summary.tagged, summary.rejected) == (10, 0)
    assert "3 image(s) named by image_uri could not be had" in caplog.text
    rows = {row["post_id"]: row for row in rows_by_glob(tmp_path / "out")}
    assert [rows[str(n)]["status"] for n in range(10)] == ["ok"] * 6 + ["image_missing"] * 4
    told = [rows[str(n)]["detail"] for n in range(6, 10)]
    assert "the server answered 404" in told[0]
    assert "the host itself answers" in told[1]
    assert "cdn.example.org was not" in told[2]
    assert told[3] == "no image"


def test_a_host_that_is_away_fails_the_run_and_the_next_one_ends_it(
    archive: Path, server: Server, popularity: Path, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    held, server.pictures, server.front = server.pictures, {}, 503
    text = (archive / "posts.csv").read_text()
    (archive / "posts.csv").write_text(text.replace("/0.jpg", "/status/503").replace("/cut", "/status/404"))
    with pytest.raises(HashtagError, match=r"run again: posts.csv: .*the server answered 503 Service Unavailable"):
        run(archive, tmp_path / "out", popularity, recipe(host_of(server)))
    (archive / "posts.csv").write_text(text)
    server.pictures, server.front = held, 200
    assert run(archive, tmp_path / "out", popularity, recipe(host_of(server))).tagged == 10
    assert len(rows_by_glob(tmp_path / "out")) == 10


def test_converting_keeps_the_pictures_and_counts_what_is_missing(
    archive: Path, server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--archive", str(archive), "--format", "csv", "--convert", str(out), "--image-host", host_of(server)]
    assert prepare_job.main(flags) == 0
    captured = capfd.readouterr()
    summary = json.loads(captured.out)
    assert (summary["pictures"], summary["pictures_missing"]) == (6, 3)
    assert summary["picture_hosts"] == {
        host_of(server).removeprefix("http://"): {"had": 6, "missing": 2},
        "cdn.example.org": {"had": 0, "missing": 1},
    }
    assert "the server answered 404 Not Found" in captured.err
    assert prepare_job.main(flags) == 0  # nothing is fetched again, and all of it is told again
    captured = capfd.readouterr()
    assert json.loads(captured.out) == summary | {"unchanged": True}
    assert "the server answered 404 Not Found" in captured.err
    table = pq.read_table(out)
    held = dict(zip(table["post_id"].to_pylist(), table["image"].to_pylist(), strict=True))
    assert [held[str(n)] for n in range(6)] == [server.pictures[f"/{n}.jpg"] for n in range(6)]
    stopped = [*flags[:5], str(tmp_path / "stopped"), "--max-missing-images", "0.5"]
    assert prepare_job.main(stopped) == 2
    told = capfd.readouterr().err
    assert "9 of 9 pictures could not be had (100%)" in told
    assert "--image-host http://127.0.0.1" in told


def test_a_table_is_recommended_for_with_its_pictures(
    archive: Path, server: Server, popularity: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = [str(archive / "posts.csv"), "--model", str(popularity), "--format", "json"]
    assert recommend_job.main([*asked, "--image-host", host_of(server)]) == 0
    posts = json.loads(capfd.readouterr().out)["posts"]
    assert [post["status"] for post in posts] == ["ok"] * 6 + ["image_missing"] * 4
    assert recommend_job.main([*asked, "--image-host", "no host"]) == 2
    assert "archive.image_hosts: expected a host" in capfd.readouterr().err
