"""The chain of a model, for people."""

from hashtag_core.tracking.lineage import Lineage, lineage_lines

CHAIN: Lineage = {
    "model": {
        "uri": "models:/m/1", "name": "m", "version": "1", "content_hash": "c" * 64, "folder_version": "f", "family": "linear",
        "aliases": ["champion"], "verdict": "passed", "gates": {"gain": "passed: much"},
    },
    "run": {"run_id": "r", "name": "n", "status": "FINISHED", "user": "u", "started_ms": 1, "datasets": []},
    "code": {"commit": "abc", "dirty": "false"},
    "recipe": {"model": {"family": "linear"}, "training": {"seed": 3}},
    "dataset": {"uri": "d", "content_hash": "e" * 64, "posts": {"train": 5}},
    "archive": {"uri": "a", "fingerprint": "x", "parts": [f"p{n}" for n in range(6)]},
    "missing": [],
}  # fmt: skip


def test_a_link_a_line() -> None:
    assert lineage_lines(CHAIN) == [
        "model    models:/m/1 (champion), linear, folder f, content cccccccccccc",
        "gates    gain passed",
        "run      n (r), FINISHED u",
        "code     commit abc, changed since: false",
        "recipe   family linear, seed 3",
        "dataset  d (eeeeeeeeeeee), posts {'train': 5}",
        "archive  a, 6 part(s): p0, p1, p2, p3, p4",
    ]


def test_what_is_gone_is_said() -> None:
    gone: Lineage = {
        **CHAIN, "model": {**CHAIN["model"], "aliases": [], "gates": {}}, "run": None, "code": None, "recipe": None, "dataset": {},
        "archive": None, "missing": ["no run r"],
    }  # fmt: skip
    assert lineage_lines(gone)[1:] == [
        "run      unknown (no run),",
        "code     commit unknown, changed since: unknown",
        "recipe   family unknown, seed unknown",
        "dataset  unknown (unknown), posts unknown",
        "archive  unknown, 0 part(s): ",
        "missing  no run r",
    ]
