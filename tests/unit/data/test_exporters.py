"""The same posts as people's exporters write them: every one is read without a lost or a changed post."""

import csv
import io
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.config import ArchiveSection
from hashtag_core.data.open_archive import open_archive
from hashtag_core.schema import POST

POSTS: list[dict[str, Any]] = [
    {
        "post_id": str(1234567890123456789 + n),
        "user_id": f"{n % 2 + 1}",
        "created_at": datetime(2024, 1, 24, 17, n, 8, tzinfo=UTC),
        "caption": caption,
        "hashtags": ["love", "größe", "東京"][: n + 1],
        "latitude": 52.5 + n,
    }
    for n, caption in enumerate(["Größe zählt; \"quoted\", 'n' all", "two\nlines", "emoji 😀 東京\t\\ / {}"])
]
WESTERN = [
    {**post, "caption": post["caption"].replace("😀 東京", "– “Öl”"), "hashtags": ["love", "größe"]} for post in POSTS
]
FIELDS = tuple(POSTS[0])
IDS = [int(post["post_id"]) for post in POSTS]


def read(folder: Path, **section: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The posts, sorted, their known fields; reasons of what was rejected."""
    archive = open_archive(str(folder), ArchiveSection(**section))
    posts, rejected = [], []
    for part in archive.parts:
        assert archive.problem(part) is None
        for batch in archive.read(part, 2):
            assert batch.posts.schema.equals(POST)
            posts += [{name: post[name] for name in FIELDS} for post in batch.posts.to_pylist()]
            rejected += [item.reason for item in batch.rejected]
    return sorted(posts, key=lambda post: post["post_id"]), rejected


def arrow(**types: pa.DataType) -> pa.Table:
    table = pa.Table.from_pylist(POSTS)
    for name, kind in types.items():
        values = IDS if name == "post_id" and not pa.types.is_string(kind) else table[name].to_pylist()
        if pa.types.is_decimal(kind):
            values = [Decimal(value) for value in values]
        column = pa.array(values, table[name].type if name == "created_at" else None).cast(kind)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def spark(folder: Path) -> None:
    part = folder / "day=2024-01-24" / "part-00000-3f1e-c000.snappy.parquet"
    part.parent.mkdir(parents=True)
    table = arrow(created_at=pa.timestamp("us"))
    pq.write_table(table, part, use_deprecated_int96_timestamps=True, flavor="spark", data_page_version="1.0")
    for name in ("_SUCCESS", f".{part.name}.crc", "._SUCCESS.crc"):
        (part.parent / name).write_bytes(b"crc")


def pandas_parquet(folder: Path) -> None:
    frame = pd.DataFrame(POSTS)
    frame["user_id"] = frame["user_id"].astype("category")
    frame["created_at"] = frame["created_at"].astype("datetime64[ns, UTC]")
    frame.set_index(pd.Index([7, 8, 9], name="row")).to_parquet(folder / "posts.parquet", compression="gzip")


def pandas_gaps(folder: Path) -> None:
    """Ids that became floats because one was missing."""
    frame = pd.DataFrame(POSTS)
    frame["user_id"] = frame["user_id"].astype(float)
    frame.to_parquet(folder / "posts.parquet.gz", compression="brotli")


def polars_parquet(folder: Path) -> None:
    frame = pl.DataFrame(POSTS).with_columns(pl.col("user_id").cast(pl.Categorical), pl.col("post_id").cast(pl.UInt64))
    frame.write_parquet(folder / "posts.PARQUET", compression="zstd")


def duckdb_parquet(folder: Path) -> None:
    table = pa.Table.from_pylist(POSTS)
    duckdb.sql(
        "COPY (SELECT CAST(post_id AS DECIMAL(38, 0)) AS post_id, CAST(user_id AS USMALLINT) AS user_id, created_at, caption, "
        f"hashtags, CAST(latitude AS DECIMAL(9, 4)) AS latitude, 'x' AS kind FROM \"table\") TO '{folder}/out' "
        "(FORMAT parquet, PARTITION_BY (kind), COMPRESSION lz4_raw)"
    )
    assert table.num_rows == 3


def bigquery(folder: Path) -> None:
    """Lists without list inference, NUMERIC ids."""
    element = pa.struct([("element", pa.string())])
    kind = pa.struct([("list", pa.list_(element))])
    tags = [{"list": [{"element": tag} for tag in post["hashtags"]]} for post in POSTS]
    table = arrow(post_id=pa.decimal128(38, 9), user_id=pa.int64())
    table = table.set_column(table.schema.get_field_index("hashtags"), "hashtags", pa.array(tags, kind))
    pq.write_table(table, folder / "posts-000000000000.parquet", compression="gzip")


def athena(folder: Path) -> None:
    name = "20240701_144951_00037_v74wa_1ad6f92e-a1e0-471e-933c-0e33736726fd"
    table = arrow(post_id=pa.int64(), created_at=pa.timestamp("ms"))
    pq.write_table(table, folder / name, use_deprecated_int96_timestamps=True, compression="gzip")


def snowflake(folder: Path) -> None:
    """Names in capitals, integers as NUMBER(38, 0), arrays as JSON text."""
    table = arrow(post_id=pa.decimal128(38, 0), user_id=pa.decimal128(38, 0), created_at=pa.timestamp("ms"))
    tags = pa.array([json.dumps(post["hashtags"], indent=1) for post in POSTS])
    table = table.set_column(table.schema.get_field_index("hashtags"), "hashtags", tags)
    pq.write_table(
        table.rename_columns([name.upper() for name in table.column_names]), folder / "data_0_0_0.snappy.parquet"
    )


def hive(folder: Path) -> None:
    """Text as bytes without a logical type, text dates."""
    table = arrow(caption=pa.binary(), user_id=pa.large_binary(), post_id=pa.int64())
    dates = pa.array([post["created_at"].strftime("%Y-%m-%d %H:%M:%S.000 UTC") for post in POSTS])
    table = table.set_column(table.schema.get_field_index("created_at"), "created_at", dates)
    pq.write_table(table, folder / "000000_0")


def arrow_types(folder: Path) -> None:
    kinds = {
        "post_id": pa.string_view(), "user_id": pa.dictionary(pa.int8(), pa.large_string()),
        "hashtags": pa.large_list(pa.string_view()), "created_at": pa.timestamp("ns", "Asia/Tokyo"), "latitude": pa.float32(),
    }  # fmt: skip
    pq.write_table(
        arrow(**kinds),
        folder / "_posts.parq",
        data_page_version="2.0",
        use_byte_stream_split=["latitude"],
        use_dictionary=False,
    )


@pytest.mark.parametrize(
    "write",
    [
        spark,
        pandas_parquet,
        pandas_gaps,
        polars_parquet,
        duckdb_parquet,
        bigquery,
        athena,
        snowflake,
        hive,
        arrow_types,
    ],
)
def test_parquet(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    posts, rejected = read(tmp_path)
    assert rejected == []
    assert posts == POSTS


def test_uuids_are_ids(tmp_path: Path) -> None:
    ids = [uuid.UUID(int=n) for n in range(3)]
    duckdb.sql(f"COPY (SELECT unnest(['{ids[0]}'::UUID, '{ids[1]}', '{ids[2]}']) AS post_id) TO '{tmp_path}/a.parquet'")
    pq.write_table(pa.table({"post_id": pa.array([i.bytes for i in ids], pa.uuid())}), tmp_path / "b.parquet")
    archive = open_archive(str(tmp_path))
    found = [
        post_id
        for part in archive.parts
        for batch in archive.read(part, 9)
        for post_id in batch.posts["post_id"].to_pylist()
    ]
    assert found == [str(i) for i in ids] * 2


def table_text(delimiter: str, posts: list[dict[str, Any]], date: str = "iso", tags: str = "|", **columns: str) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow([columns.get(name, name) for name in FIELDS])
    for post in posts:
        when = post["created_at"].isoformat() if date == "iso" else post["created_at"].strftime(date)
        comma = str(post["latitude"]).replace(".", "," if delimiter == ";" else ".")
        row = {**post, "created_at": when, "hashtags": tags.join(post["hashtags"]), "latitude": comma}
        writer.writerow([row[name] for name in FIELDS])
    return buffer.getvalue()


def excel(folder: Path) -> list[dict[str, Any]]:
    (folder / "posts.csv").write_bytes(table_text(";", WESTERN, tags="|").encode("cp1252"))
    return WESTERN


def excel_named_delimiter(folder: Path) -> list[dict[str, Any]]:
    (folder / "Posts.CSV").write_bytes(("sep=;\r\n" + table_text(";", WESTERN)).encode("cp1252"))
    return WESTERN


def excel_utf8(folder: Path) -> list[dict[str, Any]]:
    (folder / "posts.csv").write_bytes(table_text(";", POSTS).encode("utf-8-sig"))
    return POSTS


def excel_unicode_text(folder: Path) -> list[dict[str, Any]]:
    (folder / "posts.csv").write_bytes(table_text("\t", POSTS).encode("utf-16"))
    return POSTS


def pandas_csv(folder: Path) -> list[dict[str, Any]]:
    pd.DataFrame(POSTS).to_csv(folder / "posts.csv.gz")
    return POSTS


def sheets(folder: Path) -> list[dict[str, Any]]:
    (folder / "posts - Sheet1.csv").write_text(table_text(",", POSTS, tags=", "), newline="")
    return POSTS


def postgres(folder: Path) -> list[dict[str, Any]]:
    posts = [{**post, "hashtags": ["{" + ",".join(post["hashtags"]) + "}"]} for post in POSTS]
    (folder / "posts.csv").write_text(table_text(",", posts, "%Y-%m-%d %H:%M:%S+00"), newline="")
    return POSTS


def mysql(folder: Path) -> list[dict[str, Any]]:
    (folder / "posts.tsv").write_text(table_text("\t", POSTS, "%Y-%m-%d %H:%M:%S"), newline="")
    return POSTS


@pytest.mark.parametrize(
    "write", [excel, excel_named_delimiter, excel_utf8, excel_unicode_text, pandas_csv, sheets, postgres, mysql]
)
def test_tables(write: Callable[[Path], list[dict[str, Any]]], tmp_path: Path) -> None:
    wanted = write(tmp_path)
    posts, rejected = read(tmp_path, format="csv")
    assert rejected == []
    assert posts == wanted


def test_a_table_of_a_person_is_read_as_the_person_says(tmp_path: Path) -> None:
    text = table_text(";", POSTS, "%d.%m.%Y %H:%M:%S", post_id="Nr", caption="Beschreibung", created_at="Datum")
    (tmp_path / "posts.csv").write_bytes(text.encode("gb18030"))
    said = {"post_id": "Nr", "caption": "Beschreibung", "created_at": "Datum"}
    posts, rejected = read(tmp_path, format="csv", map=said, date_format="%d.%m.%Y %H:%M:%S", encoding="gb18030")
    assert (posts, rejected) == (POSTS, [])


def lines(posts: list[dict[str, Any]], **options: Any) -> str:
    rows = ({**post, "created_at": post["created_at"].isoformat()} for post in posts)
    return "".join(json.dumps(row, **options) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", lines(POSTS).encode()),
        ("a.ndjson", lines(POSTS, ensure_ascii=False).encode()),
        ("part-00000-3f1e.json", lines(POSTS).encode()),
        ("a.jsonl", lines(POSTS).replace("/", "\\/").replace("\n", "\r\n").encode("utf-8-sig")),
        ("a.jsonl", lines(POSTS, ensure_ascii=False).encode("utf-16")),
        ("a.jsonl", lines([{**post, "post_id": int(post["post_id"]), "user_id": float(post["user_id"])} for post in POSTS]).encode()),
        ("a.jsonl", lines([{**post, "hashtags": [{"text": tag, "indices": [0, 1]} for tag in post["hashtags"]]} for post in POSTS]).encode()),
        ("a.jsonl", lines([{**post, "hashtags": json.dumps(post["hashtags"])} for post in POSTS]).encode()),
        ("a.jsonl", lines([{"id": post["post_id"], "text": post["caption"], "tags": post["hashtags"], "user": {"name": "x"}, **{k: post[k] for k in ("user_id", "created_at", "latitude")}} for post in POSTS]).encode()),
    ],
)  # fmt: skip
def test_json_lines(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    posts, rejected = read(tmp_path, format="jsonl")
    assert rejected == []
    assert posts == POSTS


def test_json_lines_of_nested_objects(tmp_path: Path) -> None:
    rows = [
        {"node": {"code": post["post_id"], "text": post["caption"]}, "owner": {"pk": post["user_id"]}} for post in POSTS
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    posts, _ = read(
        tmp_path, format="jsonl", map={"post_id": "node.code", "caption": "node.text", "user_id": "owner.pk"}
    )
    assert [(p["post_id"], p["caption"], p["user_id"]) for p in posts] == [
        (p["post_id"], p["caption"], p["user_id"]) for p in POSTS
    ]


def test_json_lines_of_objects_in_lists(tmp_path: Path) -> None:
    """As dumps of APIs nest them: pictures, tags and places in lists of objects; what is not mapped is named as it would be."""
    rows: list[dict[str, Any]] = [
        {
            "id": n,
            "author": {"id": 7, "name": "ann"},
            "entities": {"hashtags": [{"text": tag, "indices": [0, 3]} for tag in tags]},
            "media": [{"path": f"{n}.jpg", "type": "photo"}, {"path": "no.jpg"}][: n + 1],
        }
        for n, tags in enumerate((["sea", "boat"], ["sea"], []))
    ]
    rows[2] |= {"media": [], "geo": {"at": [{"lat": 1.5}]}}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for picture in ("media.path", "media.0.path"):
        columns = {
            "image_uri": picture,
            "hashtags": "entities.hashtags.text",
            "user_id": "author.id",
            "latitude": "geo.at.lat",
        }
        archive = open_archive(str(tmp_path), ArchiveSection(format="jsonl", map=columns))
        assert archive.listing.notes == [
            "a.jsonl: column(s) not read: author.name, entities.hashtags.indices, media.type (--map FIELD=COLUMN says what one holds)"
        ]
        batches = [batch for part in archive.parts for batch in archive.read(part, 10)]
        posts = [post for batch in batches for post in batch.posts.to_pylist()]
        assert [item for batch in batches for item in batch.rejected] == []
        assert [(p["image_uri"], p["hashtags"], p["user_id"], p["latitude"]) for p in posts] == [
            ("0.jpg", ["sea", "boat"], "7", None), ("1.jpg", ["sea"], "7", None), (None, [], "7", 1.5)
        ]  # fmt: skip
    archive = open_archive(str(tmp_path), ArchiveSection(format="jsonl", map={"caption": "entities.text_"}))
    told = "--map caption=entities.text_: no such key, found id, author.id, author.name, entities.hashtags.text"
    assert told in str(archive.problem(archive.parts[0]))


def test_a_mapped_key_may_be_absent_from_the_first_lines(tmp_path: Path) -> None:
    rows = [{"id": n} for n in range(80)]
    for key in ("wörter", "a.b", "x"):
        late = {"wörter": {"wörter": "late"}, "a.b": {"a.b": "late"}, "x": {"d": {"x": "late"}}}[key]
        for ensure_ascii in (True, False):
            lines = [*rows, {"id": 80, **late}]
            (tmp_path / "a.jsonl").write_text(
                "".join(json.dumps(row, ensure_ascii=ensure_ascii) + "\n" for row in lines)
            )
            posts, rejected = read(tmp_path, format="jsonl", map={"caption": "d.x" if key == "x" else key})
            assert ([post["post_id"] for post in posts if post["caption"] == "late"], len(posts), rejected) == (
                ["80"],
                81,
                [],
            )


def test_an_array_of_json_is_left_out_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"post_id": "1"}]))
    (tmp_path / "b.jsonl").write_text('{"post_id": "1"}\n')
    archive = open_archive(str(tmp_path), ArchiveSection(format="jsonl"))
    assert [part.path for part in archive.parts] == ["b.jsonl"]
    assert archive.tally.left_out == {"one JSON array: write an object a line (pandas: to_json(lines=True))": 1}
