"""The report of `evaluate` in a real browser: 5,000 posts with hostile captions, by keyboard, light and dark, on a phone."""

import io
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hashtag_core.evaluation.gallery import Gallery, ShownPost
from hashtag_core.evaluation.report_page import report_page

POSTS, KS = 5_000, [1, 2, 3, 4, 5, 10]
HOSTILE = [
    "<script>alert(1)</script> a caption that is code",
    "</script><img src=x onerror=alert(2)>",
    "שלום עולם, זריחה בנמל",
    "مرفأ عند الفجر 🌅",
    "港の夜明け、船が三隻 👩‍👩‍👧‍👦 🇯🇵",
    "a" * 900,
    "{{ 7 * 7 }} ${7*7} \u2028 \u2029 &lt;b&gt; \\u003c",
]
TAGS = ["sea", "boat", "<b>bold</b>", "</script>", "夜明け", "שקיעה", "ñandú"] + [f"tag{n}" for n in range(93)]
SLICES = ["caption absent", "caption of 1-4 words", "caption of 5+ words", "with image", "without image"]


def thumbnails(count: int) -> list[bytes]:
    made = []
    for n in range(count):
        noise = random.Random(n)
        picture = Image.new("RGB", (112, 84))
        picture.putdata([(noise.randrange(256), n % 256, (x * 7) % 256) for x in range(112 * 84)])
        out = io.BytesIO()
        picture.resize((112, 84)).save(out, "WEBP", quality=60, method=0)
        made.append(out.getvalue())
    return made


def figures(level: float) -> dict[str, float]:
    names = ("precision", "recall", "f1", "hit_rate", "ndcg")
    at_k = {f"{name}_at_{k}": level * (1 - 0.03 * k) for name in names for k in KS}
    more = {"mean_average_precision": level, "coverage": level, "gini": 0.5, "novelty": 4 + level}
    return {"posts": float(POSTS), **at_k, **more, **{f"f1_at_{k}_user_macro": level for k in KS}}


def model(number: int, family: str) -> dict[str, Any]:
    level = 0.5 - 0.1 * number
    bands = {name: {"tags": 30.0, "uses": 900.0, **figures(level)} for name in ("head", "middle", "tail", "unseen")}
    return {
        "model": f"models:/m/{number}",
        "family": family,
        "version": str(number),
        "metrics": figures(level),
        "papers": figures(level),
        "floor": figures(level),
        "intervals": {"headline": {f"f1_at_{k}": [level - 0.05, level + 0.05] for k in KS}},
        "slices": {name: figures(level) for name in SLICES},
        "tags": bands,
        "thresholded": {"threshold": 0.4, "precision": 0.5, "recall": 0.4, "f1": 0.44, "mean_length": 2.5},
        "bleu": {},
        "parameters": 10 ** (number + 3),
        "seconds": 3.0 * (number + 1),
        "statuses": {"ok": POSTS - 10, "image_missing": 10},
        "precision_recall": [[1 - n / 40, 1 - n / 60, n / 40] for n in range(40)],
        "calibration": {"error": 0.12, "bins": [{"places": 9, "mean_score": n / 10, "hit_share": n / 12} for n in range(10)]},
        "confused": [{"true": "sea", "given": "</script>", "posts": 12, "lift": 3.2}],
        "learning": {"train_loss": [3, 2, 1.5], "validation_loss": [3.2, 2.6, 2.5]} if number else {},
    }  # fmt: skip


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = [model(0, "$x$ <i>amnn</i>"), model(1, "linear"), model(2, "popularity")]
    report = {
        "dataset": "s3://bucket/<data>", "dataset_hash": "0123456789abcdef", "split": "test", "ks": KS,
        "bootstrap_samples": 1000, "notes": ["a note with <b>signs</b>"], "models": models,
        "differences": [
            {"first": "models:/m/0", "second": "models:/m/1", "value": 0.1, "low": -0.01, "high": 0.2, "p_value": 0.07}
        ],
    }  # fmt: skip
    chosen = random.Random(0)
    gallery = Gallery([entry["family"] for entry in models], SLICES, TAGS, 98, 5, POSTS)
    small = thumbnails(8)
    for n in range(POSTS):
        lists = [chosen.sample(range(98), 10) for _ in models]
        if n % 2:
            lists = [lists[0]] * 3
        true = chosen.sample(range(100), chosen.randrange(0, 5))
        gallery.posts.append(
            ShownPost(
                f"post-{n:05d}", f"user-{n % 97}", HOSTILE[n % len(HOSTILE)] if n % 3 else f"caption {n}",
                "ok" if n % 50 else "image_missing", 0b01100 if n % 50 else 0b10100, true, lists,
                [[0.9 - 0.05 * place for place in range(10)]] * 3,
                f"picture {n}" if n % 50 else None,
                [("0123456789" * 4)[:36] if n % 50 else "", "", ""] if n < 40 else [],
            )
        )  # fmt: skip
        if n % 50:
            gallery.thumbnails[f"picture {n}"] = small[n % len(small)]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_page(report, gallery), encoding="utf-8")
    return path


def cards(page: Any) -> int:
    return int(page.locator(".card").count())


def where(page: Any) -> str:
    return str(page.locator("#where").inner_text())


def wait(page: Any, selector: str, text: str = "", without: str = "") -> None:
    """Until the element has the text, or no longer has it."""
    from playwright.sync_api import expect

    if text:
        expect(page.locator(selector)).to_contain_text(text)
    else:
        expect(page.locator(selector)).not_to_contain_text(without)


def test_five_thousand_posts_fit_and_open_quietly(page_file: Path, open_page: Callable[..., Any]) -> None:
    assert page_file.stat().st_size <= 25_000_000
    began = time.monotonic()
    page = open_page(page_file)
    assert where(page) == f"1–24 of {POSTS} posts"
    assert time.monotonic() - began < 15, "seconds even where the machine is busy"
    assert cards(page) == 24
    assert page.faults == []
    assert page.locator("figure svg").count() >= 10
    assert page.title() == "3 models on 5,000 posts: $x$ <i>amnn</i> first"


def test_what_is_hostile_is_text(page_file: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_file)
    page.fill("#q", "a caption that is code")
    wait(page, "#where", without=f"of {POSTS}")
    assert page.locator(".card .text").first.inner_text() == HOSTILE[0]
    assert page.locator(".card script, .card b, .card img[src='x']").count() == 0
    assert page.faults == []


def test_the_gallery_by_keyboard_alone(page_file: Path, open_page: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = open_page(page_file)
    page.keyboard.press("n")
    assert where(page) == f"25–48 of {POSTS} posts"
    page.keyboard.press("p")
    page.keyboard.press("/")
    page.keyboard.type("post-00042")
    wait(page, "#where", "1–1 of 1 posts")
    assert "post-00042" in page.locator(".card .meta").inner_text()
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.press("Tab")  # the model
    page.keyboard.press("Tab")  # the order
    page.keyboard.press("w")
    assert page.input_value("#order") == "worst"
    expect(page.locator(".card").first.locator("li.hit")).to_have_count(0)
    for _ in range(4):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    wait(page, "#where", without=f"of {POSTS}")
    assert int(where(page).split(" of ")[1].split()[0]) <= POSTS / 2
    page.keyboard.press("Tab")  # where a model looks
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait(page, "#where", f"of {POSTS}")
    assert page.faults == []


def test_filters_agree_with_the_data(page_file: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_file)
    page.select_option("#status", label="image_missing")
    wait(page, "#where", "of 100 posts")
    assert page.locator(".card .blank").count() == 24
    page.select_option("#slice", label="with image")
    wait(page, "#where", "no post fits")
    page.click("button[type=reset]")
    wait(page, "#where", f"of {POSTS}")
    page.fill("#tag", "#夜明け")
    page.select_option("#model", label="linear")
    wait(page, "#where", without=f"of {POSTS}")
    page.wait_for_function(
        "document.querySelector('.card').querySelectorAll('h4').length === 2"
    )  # drawn after a moment
    assert all("夜明け" in text for text in page.locator(".card").all_inner_texts())


def test_attention_lies_on_the_picture(
    page_file: Path, open_page: Callable[..., Any], serious_faults: Callable[[Any], list[str]]
) -> None:
    page = open_page(page_file)
    assert page.locator("canvas").count() == 0
    page.check("#looks")
    wait(page, ".card .seen .by >> nth=0", "$x$ <i>amnn</i>")
    assert page.locator("canvas").count() == 23, "not on the post without a picture"
    image, drawn = (page.locator(f".seen {name}").first.bounding_box() for name in ("img", "canvas"))
    assert {side: round(drawn[side]) for side in drawn} == {side: round(image[side]) for side in image}
    drawn = "document.querySelector('canvas').getContext('2d').getImageData(0, 0, 6, 6).data"
    pixels = page.evaluate(f"[...{drawn}]")
    veil = [pixels[4 * cell + 3] for cell in (0, 1, 9)]
    assert veil == [24 * 9, 24 * 8, 0], "digits 0, 1 and 9"
    assert "where $x$ <i>amnn</i> looks" in page.locator(".seen img").first.get_attribute("alt")
    assert serious_faults(page) == []
    page.select_option("#model", label="linear")
    from playwright.sync_api import expect

    expect(page.locator("canvas")).to_have_count(0)
    assert page.faults == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_serious_fault_of_accessibility(
    page_file: Path, open_page: Callable[..., Any], serious_faults: Callable[[Any], list[str]], dark: bool
) -> None:
    page = open_page(page_file, dark=dark)
    assert serious_faults(page) == []


def test_nothing_sticks_out_on_a_phone(page_file: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_file, width=375)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator(".card").first.bounding_box()["width"] <= 355
