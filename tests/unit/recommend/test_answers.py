"""One answer, three shapes: each holds all of it, none is cut."""

import csv
import io
import json

from rich.cells import cell_len

from hashtag_core.recommend.answers import OWN, Answer, as_csv, as_json, as_text

PAST = [{"post_id": f"p{n}", "amount": amount} for n, amount in ((1, 0.25), (2, 0.12), (3, 0.1), (4, 0.01))]
WHY = {"hashtag": "b", "base": -2.0, "image": 0.5, "caption": None, "history": PAST, "neighbours": []}
LONG = "a-very-long-name-of-a-picture/" * 4 + "1.jpg"
ANSWERS = [
    Answer("1", {"id": "1", "note": 'a "quoted", cell\nof two lines'}, ["sea", "港"], [0.75, 0.5], "ok"),
    Answer(LONG, {"id": LONG, "note": "[red]"}, [], [], "empty", "no image; no caption"),
]


def test_json_is_one_object_in_one_line() -> None:
    text = as_json(ANSWERS, "models:/m/1", "linear")
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "model": "models:/m/1",
        "family": "linear",
        "posts": [
            {
                "name": "1",
                "hashtags": [{"hashtag": "sea", "score": 0.75}, {"hashtag": "港", "score": 0.5}],
                "status": "ok",
                "detail": None,
                "given": ANSWERS[0].given,
            },
            {
                "name": LONG,
                "hashtags": [],
                "status": "empty",
                "detail": "no image; no caption",
                "given": ANSWERS[1].given,
            },
        ],
    }


def test_csv_keeps_the_own_columns_and_adds_ours() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(ANSWERS))))
    assert list(rows[0]) == ["id", "note", *OWN]
    assert rows[0]["note"] == ANSWERS[0].given["note"]
    assert [rows[0][name] for name in OWN] == ["sea 港", "0.7500 0.5000", "ok", ""]
    assert [rows[1][name] for name in OWN] == ["", "", "empty", "no image; no caption"]


def test_csv_of_csv_has_our_columns_once() -> None:
    again = [Answer("1", row, ["new"], [1.0], "ok") for row in csv.DictReader(io.StringIO(as_csv(ANSWERS[:1])))]
    (row,) = csv.DictReader(io.StringIO(as_csv(again)))
    assert list(row) == ["id", "note", *OWN]
    assert row["recommended_hashtags"] == "new"


def test_text_fits_the_width_and_cuts_no_name() -> None:
    many = [Answer("p", {}, [f"tag{n}" * 5 for n in range(9)], [0.5] * 9, "ok"), ANSWERS[1]]
    text = as_text(many, 80)
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    body = "".join(line.split("│")[1].strip() for line in text.splitlines() if line.count("│") == 3)
    assert LONG in body
    assert f"#{'tag8' * 5} 0.50" in text
    assert "(empty: no image; no caption)" in text


def test_text_of_one_post_is_a_tag_a_line_and_markup_is_text() -> None:
    answer = Answer("x", {}, ["sea", "b"], [0.75, 0.05], "image_unreadable", "[bold]broken", ["words: sea", WHY])
    assert as_text([answer]).splitlines() == [
        "#sea  0.750  ███████████████",
        "    words: sea",
        "#b    0.050  █",
        "    base -2.00, image +0.50, history: p1 +0.25; p2 +0.12; p3 +0.10; 1 more",
        "(image_unreadable: [bold]broken)",
    ]


def test_what_was_not_given_is_no_fault() -> None:
    assert "caption" not in as_text([Answer("x", {}, ["sea"], [0.5], "caption_missing", "no caption")])
