import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core import storage
from hashtag_core.config import Recipe, read_recipe
from hashtag_core.data.dataset import SPLITS, Dataset, DatasetInfo
from hashtag_core.distributed.prepare import prepare
from hashtag_core.errors import ArchiveError, ConfigError, NotFoundError
from hashtag_core.preparation.plan import plan_prepare
from hashtag_core.schema import PREPARED
from jobs import prepare as job

pytestmark = pytest.mark.usefixtures("ray_session")


def recipe(*overrides: str) -> Recipe:
    return read_recipe(None, ["vocabulary.min_count=1", "archive.batch_rows=16", *overrides])


def run(archive: Path | str, dataset: Path | str, *overrides: str, test_archive: Path | None = None) -> DatasetInfo:
    return prepare(plan_prepare(recipe(*overrides), str(archive), str(dataset), test_archive and str(test_archive)))


def rows_of(dataset: Path | str) -> dict[str, dict[str, Any]]:
    """Every row by its id, with the split it is in."""
    held = Dataset.open(str(dataset))
    rows = {}
    for split in SPLITS:
        for table in held.read(split):
            assert table.schema.equals(PREPARED)
            rows |= {row["post_id"]: {**row, "split": split} for row in table.to_pylist()}
    return rows


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def archive(tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]) -> Path:
    """120 posts of 12 users in three parts, and every trouble that a row can have."""
    posts = make_posts(120, users=12)
    posts[3] |= {"caption": "found in the text #Sea ＃ＳＵＮ http://x.com/#no", "hashtags": None}
    posts[7] |= {"image": b"\xff\xd8 truncated"}
    posts[9] |= {"image": None, "caption": None}
    folder = write_archive(tmp_path / "archive", posts, parts=3, row_group_size=25)
    extra = [
        {**posts[0], "created_at": posts[0]["created_at"] + 5_000, "caption": "the later of two"},
        {**posts[1], "post_id": "repost", "created_at": posts[1]["created_at"] + 5_000},
        {**posts[2], "post_id": " "},
    ]
    held = pa.Table.from_pylist(extra).drop_columns(["user_id"])
    naive = held["created_at"].cast(pa.timestamp("us")).cast(pa.timestamp("ms"), safe=False)
    held = held.set_column(held.schema.get_field_index("created_at"), "created_at", naive)
    pq.write_table(held, folder / "posts-0003.parquet")
    (folder / "posts-0004.parquet").write_text("<html>no parquet</html>")
    pq.write_table(pa.table({"id": ["x"]}), folder / "posts-0005.parquet")
    (folder / "notes.txt").write_text("no part")
    return folder


def test_a_whole_archive(archive: Path, tmp_path: Path) -> None:
    info = run(archive, tmp_path / "dataset")
    rows = rows_of(tmp_path / "dataset")
    assert sum(info.posts.values()) == len(rows) == 120
    assert info.left_out == {"near_duplicate": 1}
    assert rows["post-0-00000"]["caption"] == "the later of two"
    assert rows["post-0-00003"]["caption"] == "found in the text"
    assert rows["post-0-00003"]["hashtags"] == ["sea", "sun"]
    assert rows["post-0-00007"]["image"] == b"\xff\xd8 truncated"
    assert rows["post-0-00009"]["caption_key"] is None
    assert rows["post-0-00041"]["source"] == "posts-0001.parquet#1"
    users: dict[str, set[str]] = {}
    for row in rows.values():
        users.setdefault(row["user_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for user, splits in users.items() if user)
    rejected = [json.loads(line) for line in (tmp_path / "dataset/_rejected/rows.jsonl").read_text().splitlines()]
    assert info.rejected == 4
    assert [(item["part"], item["row"]) for item in rejected] == [
        ("posts-0000.parquet", 0),
        ("posts-0003.parquet", 2),
        ("posts-0004.parquet", None),
        ("posts-0005.parquet", None),
    ]
    assert "repeated post_id" in rejected[0]["reason"]
    assert "expected a non-empty string, found ' '" in rejected[1]["reason"]
    assert "expected a Parquet file" in rejected[2]["reason"]
    assert "post_id: column missing, found id" in rejected[3]["reason"]
    (gone,) = (tmp_path / "dataset/_left_out/rows.jsonl").read_text().splitlines()
    assert json.loads(gone)["post_id"] == "repost"
    assert not (tmp_path / "dataset/_work").exists()
    for split in SPLITS:
        for uri in Dataset.open(str(tmp_path / "dataset")).files(split):
            metadata = pq.ParquetFile(uri).metadata
            assert all(metadata.row_group(n).num_rows <= 512 for n in range(metadata.num_row_groups))


def test_twice_changes_nothing_and_another_recipe_or_archive_is_refused(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]
) -> None:
    folder = write_archive(tmp_path / "archive", make_posts(60, users=10))
    dataset = tmp_path / "dataset"
    first = run(folder, dataset)
    before = snapshot(dataset)
    began = time.monotonic()
    assert run(folder, dataset, "archive.batch_rows=7") == first
    assert time.monotonic() - began < 5
    assert snapshot(dataset) == before
    for part in folder.iterdir():
        os.utime(part)
    assert run(folder, dataset) == first
    assert snapshot(dataset) == before
    with pytest.raises(
        ConfigError, match=r"split\.seed was 0, now 1; vocabulary\.min_count was 1, now 2: take another"
    ):
        run(folder, dataset, "split.seed=1", "vocabulary.min_count=2")
    write_archive(folder, make_posts(61, users=10))
    with pytest.raises(ConfigError, match="holds a dataset of other posts"):
        run(folder, dataset)
    assert snapshot(dataset) == before


def test_parts_and_their_order_decide_nothing(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]
) -> None:
    posts = make_posts(90, users=15)
    one = run(write_archive(tmp_path / "one", posts, parts=1), tmp_path / "first", "archive.batch_rows=1000")
    other = run(write_archive(tmp_path / "other", posts[::-1], parts=4), tmp_path / "second")
    assert one.content_hash == other.content_hash
    assert one.posts == other.posts
    a, b = rows_of(tmp_path / "first"), rows_of(tmp_path / "second")
    assert {key: row["split"] for key, row in a.items()} == {key: row["split"] for key, row in b.items()}
    assert (tmp_path / "first/vocabulary.json").read_bytes() == (tmp_path / "second/vocabulary.json").read_bytes()


def test_a_test_archive(tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]) -> None:
    main, tests = make_posts(60, users=10), make_posts(20, seed=1)
    tests = [{**post, "caption": f"of another archive {post['post_id']}"} for post in tests]
    tests[0] |= {"image": main[5]["image"]}
    tests[1] |= {"post_id": main[6]["post_id"]}
    info = run(
        write_archive(tmp_path / "main", main),
        tmp_path / "dataset",
        test_archive=write_archive(tmp_path / "test", tests),
    )
    rows = rows_of(tmp_path / "dataset")
    assert info.left_out["in_test_archive"] == 2
    assert {key for key, row in rows.items() if row["split"] == "test"} == {post["post_id"] for post in tests}
    assert rows[tests[3]["post_id"]]["source"] == "test-archive/posts-0000.parquet#3"
    assert info.posts["train"] + info.posts["validation"] == 58


@pytest.mark.parametrize("overrides", [("split.kind='by_time'",), ("split.kind='random'", "split.seed=4")])
def test_other_kinds(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path], overrides: tuple[str, ...]
) -> None:
    info = run(write_archive(tmp_path / "archive", make_posts(80)), tmp_path / "dataset", *overrides)
    assert min(info.posts.values()) >= 1
    assert sum(info.posts.values()) == 80


def test_json_lines_give_what_parquet_gives(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]
) -> None:
    posts = [
        {key: value for key, value in post.items() if key not in ("image", "created_at")}
        for post in make_posts(40, users=8)
    ]
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines/a.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts))
    run(tmp_path / "lines", tmp_path / "first", "archive.format='jsonl'")
    run(write_archive(tmp_path / "parquet", posts), tmp_path / "second")
    drop = {"source"}
    a, b = (
        {key: {k: v for k, v in row.items() if k not in drop} for key, row in rows_of(tmp_path / name).items()}
        for name in ("first", "second")
    )
    assert a == b


def test_on_s3(s3_bucket: str, tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]) -> None:
    local = write_archive(tmp_path / "archive", make_posts(60, users=10))
    storage.upload_folder(str(local), f"{s3_bucket}/archive")
    remote = run(f"{s3_bucket}/archive", f"{s3_bucket}/dataset")
    assert remote.content_hash == run(local, tmp_path / "dataset").content_hash
    assert rows_of(f"{s3_bucket}/dataset") == rows_of(tmp_path / "dataset")
    assert run(f"{s3_bucket}/archive", f"{s3_bucket}/dataset") == remote
    names = [info.path for info in storage.list_files(f"{s3_bucket}/dataset", hidden=True)]
    assert not [name for name in names if name.startswith("_work")]


def test_what_cannot_be_prepared_leaves_nothing_behind(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path], write_part: Callable[..., Path]
) -> None:
    good = write_archive(tmp_path / "good", make_posts(20, users=1))
    (tmp_path / "empty").mkdir()
    write_part(tmp_path / "columns/a.parquet", [{"id": "1"}], schema=pa.schema([("id", pa.string())]))
    write_part(tmp_path / "ids/a.parquet", [{"post_id": " "}])
    write_part(tmp_path / "none/a.parquet", [])
    target = tmp_path / "deep" / "dataset"
    for archive, error, told in (
        (tmp_path / "missing", NotFoundError, "missing"),
        (tmp_path / "empty", ArchiveError, "without a part"),
        (tmp_path / "columns", ArchiveError, "none of 1 part.*post_id: column missing, found id"),
        (tmp_path / "ids", ArchiveError, "not one row is a post: a.parquet: post_id: expected"),
        (tmp_path / "none", ArchiveError, "not one row is a post"),
        (good, ConfigError, "leaves validation and test empty"),
    ):
        with pytest.raises(error, match=told):
            run(archive, target)
        assert not (tmp_path / "deep").exists()


def test_a_folder_that_is_no_dataset_is_left_alone(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]
) -> None:
    archive = write_archive(tmp_path / "archive", make_posts(20))
    (tmp_path / "mine/train").mkdir(parents=True)
    (tmp_path / "mine/train/part-1.parquet").write_text("precious")
    with pytest.raises(ConfigError, match=r"is not empty and holds no dataset: train/part-1\.parquet"):
        run(archive, tmp_path / "mine")
    assert (tmp_path / "mine/train/part-1.parquet").read_text() == "precious"
    for dataset in (archive, archive / "inside", tmp_path):
        with pytest.raises(ConfigError, match=r"the (dataset|archive) lies in the"):
            run(archive, dataset)
    with pytest.raises(ConfigError, match="the test archive is the archive itself"):
        run(archive, tmp_path / "dataset", test_archive=archive)


def test_leftovers_of_a_killed_run_are_redone(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]
) -> None:
    archive = write_archive(tmp_path / "archive", make_posts(60, users=10))
    dataset = tmp_path / "dataset"
    for name in ("_work/started.json", "_work/index-00000.parquet", "train/part-00000-old.parquet", "vocabulary.json"):
        (dataset / name).parent.mkdir(parents=True, exist_ok=True)
        (dataset / name).write_text("half")
    run(archive, dataset)
    clean = run(archive, tmp_path / "clean")
    assert Dataset.open(str(dataset)).info == clean
    assert not (dataset / "train/part-00000-old.parquet").exists()


def test_a_part_that_changes_between_the_passes_is_told(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hashtag_core.distributed import prepare as module
    from hashtag_core.errors import HashtagError

    archive = write_archive(tmp_path / "archive", make_posts(60, users=10))
    decide = module.partition_posts

    def meanwhile(*arguments: Any) -> Any:
        os.utime(archive / "posts-0001.parquet")
        return decide(*arguments)

    monkeypatch.setattr(module, "partition_posts", meanwhile)
    with pytest.raises(HashtagError, match=r"posts-0001\.parquet: changed while the archive was read"):
        run(archive, tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def last_json(text: str) -> dict[str, Any]:
    return json.loads(text.strip().splitlines()[-1])


def test_the_job(archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(archive / "posts-0000.parquet", tmp_path / "one.parquet")
    arguments = ["--archive", str(archive), "--dataset", str(tmp_path / "dataset"), "--set", "vocabulary.min_count=1"]
    assert job.main([*arguments, "--dry-run"]) == 0
    assert last_json(capfd.readouterr().out)["parts"] == 6
    assert not (tmp_path / "dataset").exists()
    assert job.main(arguments) == 0
    summary = last_json(capfd.readouterr().out)
    assert set(summary) >= {"dataset", "posts", "vocabulary", "rejected"}
    assert set(summary["posts"]) == set(SPLITS)
    assert summary["unchanged"] is False
    assert job.main(arguments) == 0
    again = last_json(capfd.readouterr().out)
    assert again["unchanged"] is True
    assert again["posts"] == summary["posts"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--archive", "/nowhere", "--dataset", "/tmp/x"], "/nowhere"),
        (["--archive", "/nowhere"], "--archive needs --dataset"),
        (["--archiv", "x"], "unknown argument '--archiv' (did you mean '--archive'?)"),
        (
            ["--archive", "/tmp", "--dataset", "/nowhere/x", "--format", "post"],
            "no format 'post' (did you mean 'posts'?)",
        ),
        (["--set", "split.sed=1"], "unknown key 'split.sed' (did you mean 'seed'?)"),
        (["--set", "split.kind=by_moon"], "split.kind"),
        (["--archive", "ftp://x/y", "--dataset", "/tmp/x"], "a URI is a local path or s3://"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(
    arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert job.main(arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert "Traceback" not in captured.err


def test_a_kill_at_any_moment_is_mended_by_a_rerun(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]
) -> None:
    """The driver is killed once its first pass has begun; the next run gives what an undisturbed one gives."""
    archive = write_archive(tmp_path / "archive", make_posts(200, users=20), parts=4)
    command = [
        sys.executable,
        str(Path(job.__file__)),
        "--archive",
        str(archive),
        "--dataset",
        str(tmp_path / "dataset"),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "dataset/_work/started.json").exists() and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    undisturbed = prepare(plan_prepare(read_recipe(), str(archive), str(tmp_path / "other")))
    mended = prepare(plan_prepare(read_recipe(), str(archive), str(tmp_path / "dataset")))
    assert mended == undisturbed
    assert sorted(os.listdir(tmp_path / "dataset")) == sorted(os.listdir(tmp_path / "other"))


def test_two_runs_at_once(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second was planned before the first ended: it changes nothing, and fails while the first is at work."""
    from hashtag_core.distributed import prepare as module
    from hashtag_core.errors import ConfigError

    archive, dataset = write_archive(tmp_path / "archive", make_posts(60, users=10)), str(tmp_path / "dataset")
    recipe = Recipe.model_validate({"vocabulary": {"min_count": 1}})
    one, two = (plan_prepare(recipe, str(archive), dataset) for _ in range(2))
    decide = module.partition_posts

    def meanwhile(*arguments: Any) -> Any:
        with pytest.raises(ConfigError, match=r"another run \(process \d+ on .*\) makes this dataset: wait for it"):
            module.prepare(two)
        return decide(*arguments)

    monkeypatch.setattr(module, "partition_posts", meanwhile)
    made = module.prepare(one)
    files = sorted(path for path in Path(dataset).rglob("*") if path.is_file())
    monkeypatch.setattr(module, "_read_archive", lambda plan: pytest.fail("it is there"))
    assert module.prepare(two) == made
    assert sorted(path for path in Path(dataset).rglob("*") if path.is_file()) == files
    assert not (Path(dataset) / "_work").exists()


def test_a_run_that_lost_its_claim_writes_and_removes_nothing_more(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hashtag_core.distributed import prepare as module
    from hashtag_core.errors import HashtagError

    archive, dataset = write_archive(tmp_path / "archive", make_posts(60, users=10)), tmp_path / "dataset"
    decide = module.partition_posts

    def taken_over(*arguments: Any) -> Any:
        (dataset / "_work" / "started.json").write_text('{"run": "another", "host": "other"}')
        return decide(*arguments)

    monkeypatch.setattr(module, "partition_posts", taken_over)
    with pytest.raises(HashtagError, match="another run took this dataset over"):
        run(archive, dataset)
    assert (dataset / "_work" / "started.json").exists()
    assert list(dataset.glob("train/part-*.parquet")), "which are the other's as well"
    assert not (dataset / "dataset.json").exists()


def test_a_claim_of_another_machine_counts_while_its_heart_beats(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]
) -> None:
    from hashtag_core.errors import ConfigError

    archive, dataset = write_archive(tmp_path / "archive", make_posts(60, users=10)), tmp_path / "dataset"
    claim = dataset / "_work" / "started.json"
    claim.parent.mkdir(parents=True)
    claim.write_text('{"run": "r", "host": "elsewhere", "process": 1, "since": "2026-01-01T00:00:00+00:00"}')
    with pytest.raises(ConfigError, match=r"process 1 on elsewhere, since 2026-01-01T00:00:00\+00:00"):
        run(archive, dataset)
    os.utime(claim, (0, 0))
    assert run(archive, dataset).posts["train"]


def test_what_others_put_there_is_not_removed(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]
) -> None:
    from hashtag_core.errors import ConfigError

    archive, mine = write_archive(tmp_path / "archive", make_posts(60, users=10)), tmp_path / "project"
    for name in ("_work/x", "train/thesis.txt"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no dataset: _work/x is there"):
        run(archive, mine)
    assert (mine / "train" / "thesis.txt").read_text() == "mine"
    assert (mine / "_work" / "x").exists()
