"""The report of a tagging run, the pages of a leaderboard, a promotion and a shadow run, and the playground in a real browser."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hashtag_core.evaluation.board_figures import report_figures
from hashtag_core.evaluation.board_page import side_by_side_html, side_by_side_markdown
from hashtag_core.evaluation.gallery import Gallery, ShownPost
from hashtag_core.evaluation.significance import Difference
from hashtag_core.evaluation.tagging_report import TaggingRecord, tagging_page
from hashtag_core.promotion.agreement import agreement, agreement_html, agreement_markdown
from hashtag_core.promotion.gates import Duel, Gate
from hashtag_core.promotion.report import promotion_html, promotion_markdown

SETTINGS = {"archive": "s3://posts/<2026>", "model_name": "m", "model_version": "4"}


def run(number: int, **changed: Any) -> dict[str, Any]:
    tags = {"夜明け": 300 + number, "<b>bold</b>": 200, "שקיעה": 90, **{f"tag{n + number}": 50 - n for n in range(40)}}
    return {
        "run": f"run-{number:02d}", "status": "done", "started": f"2026-11-{number + 1:02d}T01:00:00+00:00",
        "settings": SETTINGS, "posts": 20_000 + 100 * number, "tagged": 19_900, "rejected": 40 * number, "parts": 40,
        "seconds": 300.0, "posts_per_second": 66.0 - number, "statuses": {"ok": 19_000, "image_missing": 900},
        "tags": tags, "first_scores": {"p05": 0.1, "p50": 0.6}, "drift": {"psi": 0.03 * number, "run": "x"},
    } | changed  # fmt: skip


@pytest.fixture(scope="module")
def tagging_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = TaggingRecord.of_run(
        run(12), [run(n) for n in range(11, 0, -1)],
        rejected_reasons={"post_id: expected a string, found null": 480},
        rejected_examples=[{"part": "day=2026-11-26/part-0.parquet", "row": 17, "reason": "<script>alert(1)</script>"}],
        unsure=[{"post_id": "p1", "hashtags": ["a", "夜明け"], "score": 0.02, "caption": "שלום </script> 🌅"}],
        slowest=[{"part": "day=2026-11-26/part-7.parquet", "posts": 500, "seconds": 31.2}],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tagging") / "tagging.html"
    path.write_text(tagging_page(record), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def board_file(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    report = json.loads((repository / "docs" / "leaderboard" / "mvsa" / "report.json").read_text())
    figures = report_figures(report)
    path = tmp_path_factory.mktemp("board") / "report.html"
    gallery = Gallery(["tagnet", "linear"], ["all"], ["sea", "<b>sand</b>", "夜明け"], 3, 2, 2)
    for n, lists in enumerate(([[0, 1], [0, 1]], [[0, 1], [2, 1]])):
        gallery.posts.append(ShownPost(f"p{n}", None, "</script> שלום", "ok", 1, [0], lists, [[0.5, 0.4]] * 2))
    confused = [("tagnet", [{"true": "sea", "given": "<b>sand</b>", "posts": 3, "lift": 2.5}])]
    markdown = side_by_side_markdown(report, figures)
    path.write_text(side_by_side_html(markdown, "mvsa", figures, gallery, confused), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def promotion_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    facts: Any = {
        "challenger": "models:/hashtag-recommender/2", "champion": "models:/hashtag-recommender/1", "verdict": "refused",
        "dataset": "s3://bucket/a-dataset-with-a-long-name", "dataset_hash": "a" * 64, "split": "test", "at": "2026-11-26",
        "by": "<script>alert(1)</script>", "run_id": "r", "refused_by": ["slices"],
        "figures": {f"models:/hashtag-recommender/{n}": {"f1_at_5": 0.25, "coverage": 0.5} for n in (1, 2)},
    }  # fmt: skip
    gates = [
        Gate("gain", True, "f1_at_5: +0.1000 (+0.0500 .. +0.1500, p 0.001)"),
        Gate("slices", False, "<b>no image</b>"),
    ]
    duel = Duel(
        "models:/hashtag-recommender/1",
        Difference(0.1, 0.05, 0.15, 0.001),
        {"without image": (30, Difference(-0.1, -0.2, 0.0, 0.02))},
    )
    path = tmp_path_factory.mktemp("promotion") / "promotion.html"
    path.write_text(promotion_html(promotion_markdown(facts, gates, [duel]), "refused"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shadow_file(tmp_path_factory: pytest.TempPathFactory, make_jpeg: Callable[..., bytes]) -> Path:
    ours = [{"hashtags": ["夜明け", "sea"], "scores": [0.9, 0.5]}, {"hashtags": [], "scores": []}]
    theirs = [{"hashtags": ["sea"], "scores": [0.7]}, {"hashtags": ["a"], "scores": [0.2]}]
    text = agreement_markdown(("models:/m/2", "models:/m/1"), agreement(ours, theirs, 2), "s3://bucket/posts", 1)
    with Image.open(io.BytesIO(make_jpeg(1))) as picture, io.BytesIO() as png:
        picture.save(png, "PNG")
        post = {
            "post_id": "1",
            "caption": "<script>x</script> שלום",
            "png": png.getvalue(),
            "ours": "夜明け sea",
            "theirs": "sea",
        }
    path = tmp_path_factory.mktemp("shadow") / "agreement.html"
    path.write_text(agreement_html(text, "shadow", [post]), encoding="utf-8")  # type: ignore[list-item]
    return path


def test_systems_that_disagree_on_a_leaderboards_page(board_file: Path, open_page: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = open_page(board_file)
    expect(page.locator("#where")).to_have_text("1–2 of 2 posts")
    page.check("#disagree")
    expect(page.locator("#where")).to_have_text("1–1 of 1 posts")
    assert "p1" in page.locator(".card .meta").inner_text()
    page.click("summary:text-is('tagnet')")
    assert page.locator("details:has-text('times chance') td").all_inner_texts() == ["sea", "<b>sand</b>", "3", "2.5"]
    assert page.locator("#looking").is_hidden()
    assert page.faults == []


@pytest.fixture(scope="module")
def playground_url(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Iterator[str]:
    import uvicorn

    from hashtag_core.recommend.recommender import Recommender
    from jobs.playground import application

    folder = make_model_folder(tmp_path_factory.mktemp("models") / "toy")
    models = [(f"toy{n}", Recommender.load(str(folder))) for n in range(2)]
    server = uvicorn.Server(
        uvicorn.Config(application(models), host="127.0.0.1", port=0, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["tagging_file", "board_file", "promotion_file", "shadow_file", "playground_url"])
def test_quiet_readable_and_no_wider_than_a_phone(
    name: str,
    dark: bool,
    request: pytest.FixtureRequest,
    open_page: Callable[..., Any],
    serious_faults: Callable[[Any], list[str]],
) -> None:
    page = open_page(request.getfixturevalue(name), width=375, dark=dark)
    assert serious_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.faults == []


def test_the_playground_answers_by_keyboard(
    playground_url: str, open_page: Callable[..., Any], make_jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page = open_page(playground_url)
    (tmp_path / "photo.jpg").write_bytes(make_jpeg(1))
    page.set_input_files("#file", str(tmp_path / "photo.jpg"))
    expect(page.locator("#preview")).to_be_visible()
    page.focus("#caption")
    page.keyboard.type("a <b>red</b> bird")
    page.keyboard.press("Tab")  # the user
    page.keyboard.press("Tab")
    page.keyboard.type("3")  # how many: it was marked when it got the focus
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_have_count(2, timeout=120_000)
    assert page.locator(".answer h2").all_inner_texts() == ["linear · toy0", "linear · toy1"]
    assert page.locator(".answer").first.locator("li").count() == 3
    assert page.faults == []


def test_the_playground_refuses_a_large_picture_before_it_is_sent(
    playground_url: str, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page(playground_url)
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8\xff" + b"0" * 10_000_001)
    page.set_input_files("#file", str(tmp_path / "large.jpg"))
    assert "at most 10 MB" in page.locator("#status").inner_text()
    page.keyboard.press("Escape")
    page.click("button.go")
    assert page.locator("#status").inner_text() == "Give a picture or a caption."
    assert page.faults == []
