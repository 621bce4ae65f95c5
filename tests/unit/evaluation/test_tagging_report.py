"""The report of a tagging run, from a run record: what alarms, what is new, ten lines, and nothing that a stranger wrote as markup."""

import re
from typing import Any

import pytest

from hashtag_core.evaluation.tagging_report import TaggingRecord, tagging_markdown, tagging_page

SETTINGS = {"archive": "s3://posts", "model_name": "m", "model_version": "4", "top_k": 10}


def record(**changed: Any) -> dict[str, Any]:
    base = {
        "run": "r2",
        "status": "done",
        "started": "2026-11-26T01:26:00+00:00",
        "plan": "735ad4a8080113b4",
        "settings": SETTINGS,
        "posts": 1000,
        "tagged": 998,
        "rejected": 2,
        "parts": 4,
        "skipped_parts": 1,
        "seconds": 125.0,
        "posts_per_second": 8.0,
        "statuses": {"ok": 990, "image_missing": 8},
        "tags": {"sea": 500, "<b>new</b>": 40, "boat": 300},
        "first_scores": {"p05": 0.1, "p50": 0.6},
        "drift": {"psi": 0.05, "run": "r1"},
    }
    return base | changed


BEFORE = record(run="r1", tags={"sea": 400, "boat": 350, "gone": 30}, posts_per_second=8.5, drift=None)


def test_new_and_vanished_tags_against_the_last_run() -> None:
    made = TaggingRecord.of_run(record(), [BEFORE])
    assert made.new_tags() == {"<b>new</b>": 40}
    assert made.vanished_tags() == {"gone": 30}
    alone = TaggingRecord.of_run(record(drift=None))
    assert (alone.new_tags(), alone.vanished_tags(), alone.psi) == ({}, {}, None)


def test_a_quiet_run_alarms_nobody() -> None:
    assert TaggingRecord.of_run(record(), [BEFORE]).alarms() == []
    assert "ok" in tagging_markdown(TaggingRecord.of_run(record(), [BEFORE])).splitlines()[0]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"status": "stopped", "reason": "SIGTERM"}, "the run is stopped, not done: SIGTERM"),
        ({"rejected": 10}, "1.0 % of the rows were rejected (10)"),
        ({"drift": {"psi": 0.4, "run": "r1"}}, "PSI 0.40, above 0.25"),
        ({"images_not_fetched": 3}, "3 pictures named by image_uri could not be had"),
        ({"posts_per_second": 5.9}, "slower than the last run: 5.9 posts/s, then 8.5"),
    ],
)
def test_what_should_be_looked_at(changed: dict[str, Any], told: str) -> None:
    made = TaggingRecord.of_run(record(**changed), [BEFORE])
    (alarm,) = made.alarms()
    assert told in alarm
    assert told in tagging_markdown(made)
    assert 'class="note alarm"' in tagging_page(made)


def test_ten_lines_of_markdown_and_no_markup_of_strangers() -> None:
    noisy = record(
        status="failed", reason="no\nroom `left`", rejected=500, images_not_fetched=1, posts_per_second=1.0,
        drift={"psi": 0.4, "run": "r1"}, tags={"@everyone": 5, "`x` **b**": 4, "a|b": 3},
    )  # fmt: skip
    text = tagging_markdown(TaggingRecord.of_run(noisy, [BEFORE]))
    assert len(text.splitlines()) == 10
    assert "`@everyone` 5" in text
    assert "`'x' **b**` 4" in text
    assert text.splitlines()[-1] == "- ⚠ and 3 more"
    assert tagging_markdown(TaggingRecord.of_run(record(), [BEFORE])) == (
        "**Tagging `r2`: done, ok**\n"
        "- 998 of 1,000 posts tagged, 2 rejected, 4 parts (1 were done before)\n"
        "- 2 min 5 s, 8.0 posts/s; model `m` version `4`\n"
        "- not whole: 8 `image_missing`\n"
        "- most given: `sea` 500, `boat` 300, `<b>new</b>` 40\n"
        "- drift against the last run: PSI 0.050 (none)\n"
        "- new: `<b>new</b>` 40; vanished: `gone` 30\n"
    )


def test_the_page_has_every_part_and_escapes_it() -> None:
    hostile = "<script>alert(1)</script>"
    made = TaggingRecord.of_run(
        record(),
        [BEFORE],
        rejected_reasons={hostile: 2},
        rejected_examples=[{"part": hostile, "row": 3, "post_id": None, "reason": hostile}],
        unsure=[{"post_id": hostile, "hashtags": [hostile], "score": 0.01, "caption": hostile}],
        slowest=[{"part": "p-1", "posts": 10, "seconds": 4.0}],
    )
    page = tagging_page(made)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 6
    assert re.findall(r'<section id="(\w+)"', page) == ["volumes", "statuses", "rejected", "tags", "unsure", "slowest"]
    assert "2.5" in page, "posts a second of the slowest part"


def test_a_run_of_nothing_is_a_page_too() -> None:
    empty = record(
        posts=0, tagged=0, rejected=0, parts=0, seconds=0.0, posts_per_second=0.0, statuses={}, tags={}, first_scores={}
    )
    page = tagging_page(TaggingRecord.of_run(empty | {"drift": None}))
    assert "Nothing stands out." in page
