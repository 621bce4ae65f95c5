"""Every fenced block of README and tutorial is run, or listed here with the reason why not; a new block fails until it is one of both.

Usage lines of the README name places in capitals and optional flags in brackets: each line is run with real places and without the
optional flags, and each optional flag, alone, by a `--dry-run`. That takes minutes: `make soak` (SOAK_README=1). What a parser can
tell is told always.
"""

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.errors import UsageError
from jobs.tag_commands import COMMANDS as TAG_COMMANDS

POSTS = 160
MODEL = "models:/hashtag-recommender/1"

RUN, ELSEWHERE = "run", "elsewhere"
README = {
    "make demo    # sets everything up": (ELSEWHERE, "installs everything and takes minutes; that the targets are there is checked below"),
    "test split of demo/dataset": (ELSEWHERE, "no command: how `make demo` ends"),
    "python jobs/prepare.py  --archive URI": (RUN, ""),
    "python jobs/tag.py ... --parts": (RUN, ""),
    "from hashtag_core import Recommender": (RUN, ""),
    "export RAY_AUTH_MODE=token": (ELSEWHERE, "a cluster: test_submit.py submits jobs to one"),
}  # fmt: skip
TUTORIAL = {
    "python -m venv .venv": (ELSEWHERE, "installs 2 GB; test_packaging.py installs the package"),
    "posts/\n": (ELSEWHERE, "no command: how the folder looks"),
    "hashtags prepare": (ELSEWHERE, "test_docs.py runs it"),
    "hashtags train": (ELSEWHERE, "test_docs.py runs it"),
    "hashtags evaluate": (ELSEWHERE, "test_docs.py runs it"),
    "hashtags promote": (ELSEWHERE, "test_docs.py runs it"),
    "hashtags recommend posts/pictures": (ELSEWHERE, "test_docs.py runs it"),
    "hashtags recommend posts/posts.csv": (ELSEWHERE, "test_docs.py runs it"),
    "hashtags tag --format csv": (ELSEWHERE, "test_docs.py runs it"),
    "import pandas as pd": (RUN, ""),
}
"""What a block begins with -> how it is covered, and where or why not here."""

PLACES = {
    "--archive": "archive", "--test-archive": "later", "--dataset": "dataset", "--out": "tagged", "--report": "report",
    "--model": MODEL, "--challenger": MODEL, "--explain": MODEL, "--recipe": "linear", "--gates": "gates.toml",
    "--force": "because", "--workers": "1", "--chunk-rows": "64", "--users": "users.txt", "--posts": "posts.txt",
}  # fmt: skip
"""What stands for a word in capitals behind a flag."""

ALONE = ("--shadow", "--explain")
"""What stands in place of the other words."""

NOT_TRIED = {
    "--resume RUN": "names a run that broke off: test_train.py",
    "--rollback": "has nothing to go back to here: test_promote.py",
}


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def block(page: Path, begin: str) -> str:
    return next(text for text in blocks(page) if text.startswith(begin))


@pytest.mark.parametrize(
    ("name", "listed"), [("README.md", README), ("docs/tutorial.md", TUTORIAL)], ids=["readme", "tutorial"]
)
def test_every_block_is_covered_or_listed(repository: Path, name: str, listed: dict[str, tuple[str, str]]) -> None:
    found = blocks(repository / name)
    for text in found:
        assert sum(text.startswith(begin) for begin in listed) == 1, f"{name}: who runs this?\n{text}"
    assert len(found) == len(listed), "a block that is listed is gone"
    assert all(reason or how == RUN for how, reason in listed.values())


def test_the_targets_of_the_first_block_are_there(repository: Path) -> None:
    for line in block(repository / "README.md", "make demo").splitlines():
        command = shlex.split(line, comments=True)
        done = subprocess.run([*command, "--dry-run"], cwd=repository, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "jobs/demo.py" in done.stdout or "pytest" in done.stdout


def usages(repository: Path) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Each usage line: job, its own words, and the words of each call with one optional part or alternative."""
    readme = repository / "README.md"
    jobs = block(readme, "python jobs/prepare.py  --archive URI").replace(" ...]", "]")
    tagging = block(readme, "python jobs/tag.py ... --parts").replace("...", "--archive URI --out URI --model MODEL |")
    for line in (jobs + tagging).splitlines():
        program, words = line.partition("#")[0].split("python ", 1)[1].split(" ", 1)
        first, *others = re.sub(r"\[[^\]]*\]", "", words).split(" | ")
        own = filled(first)
        parts = [part.strip() for part in (*re.findall(r"\[([^\]]*)\]", words), *others)]
        calls = [
            filled(part) if part.split()[0] in ALONE else [*own, *filled(part)]
            for part in parts
            if part not in NOT_TRIED
        ]
        yield Path(program).stem, own, calls


def filled(words: str) -> list[str]:
    """With real places in place of those in capitals."""
    found = shlex.split(words)
    for place, word in enumerate(found):
        if word.isupper() and place and found[place - 1] in PLACES:
            found[place] = PLACES[found[place - 1]]
    return found


def test_every_flag_of_the_usage_lines_is_known(repository: Path) -> None:
    seen = 0
    for job, own, others in usages(repository):
        for call in (own, *others):
            assert not any(re.search(r"\b[A-Z]{3,}\b", word) for word in call), f"{call}: what stands for it?"
            parser, words = importlib.import_module(f"jobs.{job}").build_parser(), call
            if job == "tag" and call[0] in TAG_COMMANDS:
                parser, words = TAG_COMMANDS[call[0]][0]("out"), call[1:]
            parser.parse_args(words)
            with pytest.raises(UsageError):
                parser.parse_args([*words, "--no-such-flag"])
            seen += 1
    assert seen >= 20


@pytest.fixture
def workplace(repository: Path, tmp_path: Path) -> Path:
    """A folder in which `python jobs/...` is found, with an archive and what the lines name."""
    table = pq.read_table(repository / "jobs" / "sample" / "posts-0001.parquet")
    kept = [row for row in table.to_pylist() if row["image"] and row["hashtags"] and row["caption"]]
    for name, rows in (("archive", kept[:POSTS]), ("later", kept[POSTS : POSTS + 20])):
        day = tmp_path / name / "day=2026-11-02"  # which `--parts` of the README names
        day.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), day / "posts-0.parquet")
    (tmp_path / "jobs").symlink_to(repository / "jobs")
    (tmp_path / "gates.toml").write_text("[gates]\nmin_gain = 0.01\n")
    (tmp_path / "users.txt").write_text(f"{kept[0]['user_id']}\n")
    (tmp_path / "posts.txt").write_text(f"{kept[1]['post_id']}\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif("SOAK_README" not in os.environ, reason="minutes: make soak")
def test_every_line_of_the_readme_runs(repository: Path, workplace: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    }
    python = ("env", f"PYTHONPATH={repository}", sys.executable)

    def call(*words: str, code: tuple[int, ...] = (0,)) -> None:
        done = subprocess.run(
            [*python, *words], cwd=workplace, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in code, f"{' '.join(words)}\n{done.stderr[-3000:]}"

    for job, own, others in usages(repository):
        program = f"jobs/{job}.py"
        refused = (0, 3) if job == "promote" else (0,)  # on so few posts a gate may not rule chance out
        nothing_to_do = (2,) if "migrate" in own else (0,)  # the output is none from before the table: test_migrate.py
        call(program, *own, code=nothing_to_do if "migrate" in own else refused)
        if job == "promote":
            call(program, *own, "--force", "because", code=(0,))
        for words in others:
            if "--test-archive" in words:  # another dataset than the one that is there
                words = ["another" if word == PLACES["--dataset"] else word for word in words]  # noqa: PLW2901
            if job == "tag" and words.count("--model") > 1:  # two models in one run are two
                call("jobs/train.py", "--recipe", "popularity", "--dataset", PLACES["--dataset"])
                words = [*words[:-1], MODEL[:-1] + "2"]  # noqa: PLW2901
            if {"--chunk-rows", "--by-day"} & set(words):  # the output that is there has other settings
                words = ["another" if word == PLACES["--out"] else word for word in words]  # noqa: PLW2901
            call(program, *words, *([] if "--explain" in words else ["--dry-run"]), code=nothing_to_do)
    part = next((workplace / "archive").rglob("*.parquet"))
    picture = pq.ParquetFile(part).read(["image"])["image"][0].as_py()
    (workplace / "photo.jpg").write_bytes(picture)
    notebook = block(repository / "README.md", "from hashtag_core import Recommender")
    call(
        "-c",
        f"jpeg_bytes = open('photo.jpg', 'rb').read()\n{notebook}\nassert len(_['hashtags'][0]) == 10".replace(
            "\nrecommender.recommend", "\n_ = recommender.recommend"
        ),
    )
    call("jobs/recommend.py", "archive", "--out", "x.csv", code=(2,))  # Parquet is tagged by jobs/tag.py
    call("jobs/recommend.py", "photo.jpg", "--out", "tagged.csv")
    call("-c", block(repository / "docs" / "tutorial.md", "import pandas").replace('"caption", ', ""))
