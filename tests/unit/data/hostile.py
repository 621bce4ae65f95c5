"""Hostile input for tests: pictures and Parquet parts of every kind that a crawl, a broken disk or an attacker leaves in an
archive, each with what must become of it. Everything is made here, the same bytes in every run."""

import csv
import io
import struct
import zlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>nothing here</body></html>"
ORIENTATION = 0x0112


@dataclass(frozen=True)
class HostileImage:
    """A picture's bytes, the status of a post with it and a caption, and what its `detail` says (a pattern; None: null)."""

    data: bytes
    status: str = "ok"
    told: str | None = None


@dataclass(frozen=True)
class HostilePart:
    """What must become of a part: post id -> status of the tagged ones; (row, pattern of the reason) of the rejected.

    `rows` are those that its footer counts, None where there is no footer to read.
    """

    rows: int | None
    tagged: dict[str, str] = field(default_factory=dict)
    rejected: list[tuple[int | None, str]] = field(default_factory=list)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A coarse pattern, so that JPEG has something to write."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def hostile_images() -> dict[str, HostileImage]:
    """Name -> picture. Small files all of them: what is large is claimed or compressed."""
    return _sound() | _cut() | _mislabelled() | _bombs() | _broken()


def _sound() -> dict[str, HostileImage]:
    """Unusual, and pictures all the same."""
    image = picture()
    frames = [picture(seed=seed) for seed in (1, 2, 3)]
    animated: dict[str, Any] = {"save_all": True, "append_images": frames}
    deep = Image.fromarray(np.linspace(0, 65535, 96 * 64, dtype=np.uint16).reshape(64, 96))
    cmyk = encoded(image.convert("CMYK"), "JPEG")
    adobe = cmyk.index(b"Adobe")
    sound = {
        "plain.jpg": encoded(image, "JPEG"),
        "progressive.jpg": encoded(image, "JPEG", progressive=True),
        "grey.jpg": encoded(image.convert("L"), "JPEG"),
        "cmyk.jpg": cmyk,
        "ycck.jpg": cmyk[: adobe + 11] + b"\2" + cmyk[adobe + 12 :],
        "444.jpg": encoded(image, "JPEG", subsampling=0),
        "mpo.jpg": encoded(image, "MPO", save_all=True, append_images=frames[:1]),
        "png named.jpg": encoded(image, "PNG"),
        "jpeg named.png": encoded(image, "JPEG"),
        "animated.gif": encoded(image, "GIF", **animated),
        "animated.webp": encoded(image, "WEBP", **animated),
        "animated.png": encoded(image, "PNG", **animated),
        "lossless.webp": encoded(image, "WEBP", lossless=True),
        "alpha.webp": encoded(image.convert("RGBA"), "WEBP"),
        "16 bit grey.png": encoded(deep, "PNG"),
        "16 bit rgb.png": _png(4, 4, depth=16, colour=2, rows=b"\0" + bytes(range(24))),
        "16 bit rgba.png": _png(4, 4, depth=16, colour=6, rows=b"\0" + bytes(range(32))),
        "palette transparent.png": encoded(image.quantize(16), "PNG", transparency=0),
        "palette transparent.gif": encoded(image.quantize(16), "GIF", transparency=3),
        "la.png": encoded(image.convert("LA"), "PNG"),
        "all transparent.png": encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), "PNG"),
        "1 bit.png": encoded(image.convert("1"), "PNG"),
        "2 bit grey.png": _png(4, 4, depth=2, colour=0, rows=b"\0\x1b"),
        "interlaced.png": _png(1, 1, depth=8, colour=2, rows=b"\0\1\2\3", interlaced=True),
        "1x1.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
        "1x1.gif": encoded(Image.new("P", (1, 1)), "GIF"),
        "1x20000.png": encoded(Image.new("L", (1, 20_000)), "PNG"),
        "20000x1.jpg": encoded(Image.new("RGB", (20_000, 1)), "JPEG"),
        "broken icc.jpg": encoded(image, "JPEG", icc_profile=b"\xff" * 5_000),
        "broken icc.png": encoded(image, "PNG", icc_profile=b"no profile"),
        "broken exif.jpg": encoded(image, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 100),
        "orientation 99.jpg": encoded(image, "JPEG", exif=_orientation(99)),
        "comments of 3 MB.jpg": _with_segments(encoded(image, "JPEG"), b"\xff\xfe", 50),
        "text of 3 MB.png": _after_header(encoded(image, "PNG"), _chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000)),
        "jpeg and zip.jpg": encoded(image, "JPEG") + b"PK\3\4" + HTML,
        "png and html.png": encoded(image, "PNG") + HTML,
        "png and script.png": _after_header(
            encoded(image, "PNG"), _chunk(b"tEXt", b"Comment\0<script>alert(1)</script>")
        ),
    }
    for turn in range(1, 9):
        sound[f"orientation {turn}.jpg"] = encoded(image, "JPEG", exif=_orientation(turn))
    return {name: HostileImage(data) for name, data in sound.items()}


def _cut() -> dict[str, HostileImage]:
    cut = {}
    for kind in ("JPEG", "PNG", "GIF", "WEBP"):
        whole = encoded(picture(300, 200), kind)
        for share in (0.1, 0.5, 0.95):
            data = whole[: int(len(whole) * share)]
            cut[f"{kind} cut at {share:.0%}"] = HostileImage(
                data, "image_unreadable", f"^(truncated|broken) {kind} of "
            )
        cut[f"{kind}, 12 bytes"] = HostileImage(whole[:12], "image_unreadable", f"^truncated {kind} of 12 bytes")
    progressive = encoded(picture(300, 200), "JPEG", progressive=True)
    told = "^truncated JPEG"
    cut["progressive cut.jpg"] = HostileImage(progressive[: len(progressive) * 2 // 3], "image_unreadable", told)
    cut["without its end.jpg"] = HostileImage(encoded(picture(), "JPEG")[:-2], "image_unreadable", told)
    return cut


def _mislabelled() -> dict[str, HostileImage]:
    image = picture()
    none = {
        "html.jpg": HTML,
        "json.jpg": b'{"error": "AccessDenied"}',
        "nulls.jpg": bytes(4_096),
        "random.jpg": np.random.default_rng(0).bytes(4_096),
        "text.png": "ein Bild, als Text — 写真".encode(),
        "zip.jpg": b"PK\3\4" + bytes(64),
        "elf.jpg": b"\x7fELF" + bytes(64),
        "wav.webp": b"RIFF\x24\0\0\0WAVEfmt " + bytes(32),
        "null before.jpg": b"\0" + encoded(image, "JPEG"),
    }
    others = {
        "BMP": encoded(image, "BMP"),
        "TIFF": encoded(image, "TIFF"),
        "icon": encoded(image, "ICO"),
        "PDF": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
        "PostScript": encoded(image, "EPS"),
        "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "AVIF or HEIC": b"\0\0\0\x20ftypheic" + bytes(64),
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64),
    }
    made = {name: HostileImage(data, "image_unreadable", "^not an image: ") for name, data in none.items()}
    made["0 bytes.jpg"] = HostileImage(b"", "image_unreadable", "^empty: 0 bytes")
    for name, data in others.items():
        made[f"{name}.jpg"] = HostileImage(data, "image_unreadable", rf"^a picture in another format \({name}\)")
    ghost = encoded(image, "EPS").replace(b"%%EndComments", b"%%EndComments\n(/tmp/owned) (w) file", 1)
    made["eps that writes.eps"] = HostileImage(ghost, "image_unreadable", "PostScript")
    pdf = b"%PDF-1.4\n" + encoded(image, "JPEG")
    made["pdf and jpeg.jpg"] = HostileImage(pdf, "image_unreadable", "PDF")
    script = b"GIF89a/*" + bytes(50) + b"*/=1;alert(1)"
    made["gif and script.gif"] = HostileImage(script, "image_unreadable", "^(truncated|broken) GIF")
    return made


def _bombs() -> dict[str, HostileImage]:
    """Little that becomes much."""
    text = zlib.compress(bytes(10_000_000), 9)
    small = encoded(picture(), "PNG")
    progressive = encoded(picture(), "JPEG", progressive=True)
    last = progressive[progressive.rindex(b"\xff\xda") : -2]
    sides = progressive.index(b"\xff\xc2") + 5
    bombs = {
        "10000x10000.png": (_png(10_000, 10_000, rows=bytes(64)), "^too large: 10000 x 10000 pixels"),
        "1 bit 12000x12000.png": (_bits(12_000), "^too large: 12000 x 12000 pixels"),
        "60000x60000.png": (_png(60_000, 60_000, rows=bytes(64)), "^too large: more than"),
        "9000x9000.gif": (_gif(9_000, 9_000), "^too large: 9000 x 9000"),
        "65535x65535.gif": (_gif(65_535, 65_535), "^too large: more than"),
        "frame larger than the screen.gif": (_gif(1, 1, 65_535, 65_535), "^too large: more than"),
        "16000x11000.webp": (_webp(16_000, 11_000), "^too large: 16000 x 11000"),
        "60000x60000.webp": (_webp(60_000, 60_000), "^too large: more than"),
        "65500x65500.jpg": (
            progressive[:sides] + struct.pack(">HH", 65_500, 65_500) + progressive[sides + 4 :],
            "^too large: more than",
        ),
        "progressive 12000x12000.jpg": (
            progressive[:sides] + struct.pack(">HH", 12_000, 12_000) + progressive[sides + 4 :],
            "^too large: 12000 x 12000",
        ),
        "1000 scans.jpg": (progressive[:-2] + last * 1_000 + progressive[-2:], "^broken JPEG of .*: 10[01][0-9] scans"),
        "text of 10 MB.png": (_after_header(small, _chunk(b"zTXt", b"k\0\0" + text)), None),
        "profile of 10 MB.png": (_after_header(small, _chunk(b"iCCP", b"k\0\0" + text)), None),
    }
    return {
        name: HostileImage(data, "image_unreadable" if told else "ok", told) for name, (data, told) in bombs.items()
    }


def _broken() -> dict[str, HostileImage]:
    whole = encoded(picture(300, 200), "PNG")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    broken = {
        "a byte flipped.png": (bytes(flipped), "^broken PNG"),
        "0x0.png": (_png(0, 0, rows=b"\0"), "PNG"),
        "header alone.png": (whole[:33], "^(truncated|broken) PNG"),
        "signature alone.png": (whole[:8], "^truncated PNG of 8 bytes"),
        "signature alone.jpg": (b"\xff\xd8\xff", "^truncated JPEG of 3 bytes"),
        "signature alone.gif": (b"GIF89a", "^truncated GIF of 6 bytes"),
    }
    return {name: HostileImage(data, "image_unreadable", told) for name, (data, told) in broken.items()}


def _orientation(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    return exif


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(
    width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"", interlaced: bool = False
) -> bytes:
    """A PNG of these sides; `rows` is repeated for each, filter byte first."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    content = zlib.compress(rows * min(height, 8))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _bits(side: int) -> bytes:
    """A real PNG of 1 bit a pixel: 18 MB of zeros in 18 kB."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    content = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _after_header(png: bytes, chunk: bytes) -> bytes:
    return png[:33] + chunk + png[33:]


def _with_segments(jpeg: bytes, marker: bytes, count: int) -> bytes:
    return jpeg[:2] + (marker + struct.pack(">H", 65_535) + b"x" * 65_533) * count + jpeg[2:]


def _gif(width: int, height: int, frame_width: int | None = None, frame_height: int | None = None) -> bytes:
    frame = struct.pack("<HHHHB", 0, 0, frame_width or width, frame_height or height, 0)
    screen = struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6)
    return b"GIF89a" + screen + b"," + frame + b"\2\2D\1\0;"


def _webp(width: int, height: int) -> bytes:
    """An animated WebP with a canvas of these sides and one frame of 8 x 8 pixels."""

    def three(value: int) -> bytes:
        return struct.pack("<I", value)[:3]

    frame = bytes(6) + three(7) + three(7) + three(100) + b"\0" + encoded(picture(8, 8), "WEBP")[12:]
    body = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + three(width - 1) + three(height - 1)
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def write_hostile_archive(folder: Path) -> dict[str, HostilePart]:
    """Write every hostile part into `folder`; path -> what must become of it. No post id is in two parts."""
    writer = _Parts(folder)
    for write in (
        _write_no_parquet,
        _write_broken_parquet,
        _write_ids,
        _write_columns,
        _write_values,
        _write_texts,
        _write_image_columns,
        _write_shapes,
    ):
        write(writer)
    return writer.parts


@dataclass
class _Parts:
    folder: Path
    parts: dict[str, HostilePart] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def bytes(self, name: str, data: bytes, told: str, rows: int | None = None) -> None:
        """A part of which nothing can be read."""
        self.path(name).write_bytes(data)
        self.parts[name] = HostilePart(rows, {}, [(None, told)])

    def table(
        self,
        name: str,
        columns: dict[str, Any],
        status: str = "ok",
        rejected: list[tuple[int | None, str]] | None = None,
        statuses: dict[str, str] | None = None,
        **options: Any,
    ) -> Path:
        """A part of three posts `<name> 0`, ... unless `columns` has its own ids; those not rejected get `status`."""
        ids = [f"{name} {n}" for n in range(3)]
        table = pa.table(
            {"post_id": ids, "caption": ["a small red bird"] * 3, **columns} if columns else {"post_id": ids}
        )
        gone = {row for row, _ in rejected or []}
        if statuses is None:
            kept = [str(value) for row, value in enumerate(table["post_id"].to_pylist()) if row not in gone]
            statuses = dict.fromkeys(kept, status)
        path = self.path(name)
        pq.write_table(table, path, **options)
        self.parts[name] = HostilePart(table.num_rows, statuses, rejected or [])
        return path


def _plain_part(ids: list[str], **options: Any) -> bytes:
    buffer = io.BytesIO()
    columns = {"post_id": ids, "caption": [f"a small red bird, number {n}" for n in range(len(ids))]}
    pq.write_table(pa.table(columns), buffer, use_dictionary=False, **options)
    return buffer.getvalue()


def _write_no_parquet(parts: _Parts) -> None:
    none = "expected a Parquet file, found: "
    whole = _plain_part([f"whole {n}" for n in range(200)])
    footer = struct.unpack("<I", whole[-8:-4])[0] + 8
    listing = io.StringIO()
    csv.writer(listing).writerows([["post_id", "caption"], ["csv 0", "a bird"]])
    for name, data in {
        "zero bytes.parquet": b"",
        "html.parquet": HTML,
        "csv.parquet": listing.getvalue().encode(),
        "json lines.parquet": b'{"post_id": "json 0"}\n' * 20,
        "magic alone.parquet": b"PAR1",
        "magic twice.parquet": b"PAR1PAR1",
        "random.parquet": np.random.default_rng(1).bytes(5_000),
        "random in magic.parquet": b"PAR1" + np.random.default_rng(2).bytes(5_000) + b"\x80\0\0\0PAR1",
        "cut in the middle.parquet": whole[: len(whole) // 2],
        "cut before the end.parquet": whole[:-3],
        "cut in the footer.parquet": whole[: -footer // 2],
        "begins late.parquet": whole[len(whole) - footer // 2 :],
        "footer length of 4 GB.parquet": whole[:-8] + b"\xff\xff\xff\xffPAR1",
        "footer length of 0.parquet": whole[:-8] + b"\0\0\0\0PAR1",
        "encrypted.parquet": b"PARE" + whole[4:-4] + b"PARE",
        "zipped.parquet": zlib.compress(whole),
        "arrow.parquet": _arrow(),
    }.items():
        parts.bytes(name, data, none)
    parts.bytes("footer alone.parquet", b"PAR1" + whole[-footer:], "^unreadable from row 0 on: " + none, rows=200)
    parts.bytes("line\nbreak 'quoted' \u202e.parquet", HTML, none)


def _write_broken_parquet(parts: _Parts) -> None:
    ids = [f"broken {n}" for n in range(61)]
    whole = _plain_part(ids, compression="snappy", row_group_size=20)
    unreadable = "expected a Parquet file, found: "
    metadata = pq.ParquetFile(io.BytesIO(whole)).metadata

    def overwritten(column: int, group: int) -> bytes:
        held = metadata.row_group(group).column(column)
        start, size = held.data_page_offset, held.total_compressed_size
        return whole[:start] + b"\xff" * size + whole[start + size :]

    parts.path("ids broken in rows 20 to 39.parquet").write_bytes(overwritten(0, 1))
    parts.parts["ids broken in rows 20 to 39.parquet"] = HostilePart(
        61,
        dict.fromkeys([*ids[:20], *ids[40:]], "image_missing"),
        [(row, "^unreadable: " + unreadable) for row in range(20, 40)],
    )
    others = [f"captions {n}" for n in range(61)]
    whole = _plain_part(others, compression="snappy", row_group_size=20)
    metadata = pq.ParquetFile(io.BytesIO(whole)).metadata
    parts.path("captions broken in rows 20 to 39.parquet").write_bytes(overwritten(1, 1))
    parts.parts["captions broken in rows 20 to 39.parquet"] = HostilePart(
        61,
        dict.fromkeys([*others[:20], *others[40:]], "image_missing"),
        [(row, unreadable) for row in range(20, 40)],
    )
    snappy = _plain_part([f"codec {n}" for n in range(61)], compression="snappy")
    codec = snappy.rindex(b"\x07post_id\x15\x02") + 9
    unknown = snappy[:codec] + b"\x06" + snappy[codec + 1 :]
    parts.bytes("lzo.parquet", unknown, "^unreadable from row 0 on: ", rows=61)
    short = [f"short {n}" for n in range(61)]
    claimed = _plain_part(short).replace(b"\x16\x7a", b"\x16\x7c")
    parts.path("footer counts one too many.parquet").write_bytes(claimed)
    parts.parts["footer counts one too many.parquet"] = HostilePart(
        62, dict.fromkeys(short, "image_missing"), [(None, "^unreadable from row 61 on")]
    )


def _write_ids(parts: _Parts) -> None:
    empty = "^post_id: expected a non-empty string, found "
    other = "^post_id: expected (?:string|a string or a whole number), found "
    everything = [(0, ""), (1, ""), (2, "")]
    numbers = pa.array([7_000_000_000_000_000_001, -7, 0])
    parts.table("id int64.parquet", {"post_id": numbers}, "image_missing")
    parts.table("id uint8.parquet", {"post_id": pa.array([251, 252, 253], pa.uint8())}, "image_missing")
    raw = pa.array([b"raw 0", b"raw \xff", b"raw 2"])
    statuses = {"raw 0": "image_missing", "raw 2": "image_missing"}
    parts.table("id binary.parquet", {"post_id": raw}, rejected=[(1, "^post_id: expected UTF-8")], statuses=statuses)
    uuids = pa.array([bytes([n] * 16) for n in (200, 201, 202)], pa.binary(16))
    told = [(row, "^post_id: expected UTF-8") for row in range(3)]
    parts.table("id uuid bytes.parquet", {"post_id": uuids}, rejected=told, statuses={})
    for name, values in {
        "large string": pa.array(["large 0", "large 1", "large 2"], pa.large_string()),
        "dictionary": pa.array(["dictionary 0", "dictionary 1", "dictionary 2"]).dictionary_encode(),
    }.items():
        parts.table(f"id {name}.parquet", {"post_id": values}, "image_missing")
    told = [(row, empty + "null") for row in range(3)]
    parts.table("id null type.parquet", {"post_id": pa.nulls(3)}, rejected=told, statuses={})
    for name, values in {
        "list": pa.array([["a"], ["b"], ["c"]]),
        "double": pa.array([1.5, 2.5, 3.5]),
        "struct": pa.array([{"id": "a"}] * 3),
        "timestamp": pa.array([datetime(2020, 1, day, tzinfo=UTC) for day in (1, 2, 3)]),
    }.items():
        parts.table(
            f"id {name}.parquet", {"post_id": values}, rejected=[(row, other) for row, _ in everything], statuses={}
        )
    ids = [
        "fine",
        None,
        "",
        " \t",
        "\u2003",
        "null \0 inside",
        "line\nbreak\r",
        "\u202eright to left",
        "\u2028",
        "x" * 50_000,
    ]
    gone = [(row, empty) for row in (1, 2, 3, 4, 8)]
    kept = dict.fromkeys([value for row, value in enumerate(ids) if row not in dict(gone)], "image_missing")
    parts.table("ids.parquet", {"post_id": ids, "caption": ["a bird"] * 10}, rejected=gone, statuses=kept)
    parts.table(
        "repeated.parquet",
        {"post_id": ["again", "again", "again\u2028"], "caption": ["a bird"] * 3},
        rejected=[(0, r"^repeated post_id: tagged from repeated\.parquet, row 1")],
        statuses={"again": "image_missing", "again\u2028": "image_missing"},
    )


def _write_columns(parts: _Parts) -> None:
    parts.table("id alone.parquet", {}, "empty")
    parts.table("others beside.parquet", {"likes": [1, 2, 3], "nested": [{"a": [1]}] * 3}, "image_missing")
    wide = {f"column {n}": pa.array([n, n, n], pa.int32()) for n in range(10_000)}
    parts.table("10000 columns.parquet", wide, "image_missing")
    parts.table("a dot in a name.parquet", {"post_id.x": [1, 2, 3], "caption.y": [1, 2, 3]}, "image_missing")
    for twice in ("post_id", "caption"):
        names = ["post_id", "caption", twice]
        table = pa.Table.from_arrays([pa.array(["a", "b"])] * 3, names=names)
        pq.write_table(table, parts.path(f"{twice} twice.parquet"))
        parts.parts[f"{twice} twice.parquet"] = HostilePart(None, {}, [(None, f"^{twice}: column occurs twice")])
    pq.write_table(pa.table({"id": ["a"]}), parts.path("no id.parquet"))
    parts.parts["no id.parquet"] = HostilePart(None, {}, [(None, "^post_id: column missing, found id")])
    pq.write_table(pa.table({"Post_ID": ["in other case"]}), parts.path("other case.parquet"))
    parts.parts["other case.parquet"] = HostilePart(1, {"in other case": "empty"})
    both = pa.table({"POST_ID": ["a"], "Post_Id": ["b"]})
    pq.write_table(both, parts.path("two other cases.parquet"))
    parts.parts["two other cases.parquet"] = HostilePart(None, {}, [(None, "^post_id: column missing, found POST_ID")])
    told = [(row, "^caption: expected string, found ") for row in (0, 2)]
    for name, values in {
        "numbers": pa.array([1, None, 3]),
        "a list": pa.array([["x"], None, ["y"]]),
        "booleans": pa.array([True, None, False]),
    }.items():
        statuses = {f"caption of {name}.parquet 1": "empty"}
        parts.table(f"caption of {name}.parquet", {"caption": values}, rejected=told, statuses=statuses)


def _write_values(parts: _Parts) -> None:
    """Columns that tagging does not read must not cost a post, whatever is in them."""
    day = datetime(2020, 1, 2, 3, 4, 5)
    times = {
        "without zone": pa.array([day, None, day], pa.timestamp("us")),
        "in seconds": pa.array([day, None, day], pa.timestamp("s")),
        "in nanoseconds": pa.array([day, None, day], pa.timestamp("ns", "Asia/Tokyo")),
        "out of range": pa.array([2**62, -(2**62), 0], pa.timestamp("us", "UTC")),
        "dates": pa.array([date(2020, 1, 2), None, date(1, 1, 1)]),
        "text": pa.array(["yesterday", None, "2020-01-02"]),
    }
    for name, values in times.items():
        parts.table(f"created_at {name}.parquet", {"created_at": values}, "image_missing")
    tags = {
        "large_list": pa.array([["x"], None, []], pa.large_list(pa.large_string())),
        "list of large_string": pa.array([["x"], None, [None]], pa.list_(pa.large_string())),
        "text": pa.array(["#x", None, ""]),
        "dictionary values": pa.array([["x"], None, ["x"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        "numbers": pa.array([[1], None, [2]]),
    }
    for name, values in tags.items():
        parts.table(f"hashtags as {name}.parquet", {"hashtags": values}, "image_missing")
    parts.table("places as text.parquet", {"latitude": ["north", None, ""], "longitude": ["x"] * 3}, "image_missing")


def _write_texts(parts: _Parts) -> None:
    texts = {
        "nulls": "a bird\0 in a tree\0",
        "controls": "".join(map(chr, range(32))) + " a bird \x7f\x80\x9f",
        "right to left": "\u202ea bird\u202c \u2067x\u2069 \u200f\u200e",
        "zero width": "a\u200b\u200c\u200dbird\ufeff",
        "not characters": "a bird \ufffe\uffff \U0010ffff",
        "combining": "a" + "\u0301" * 5_000,
        "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 500,
        "lines": "a bird\u2028in\u2029a\x85tree\r\n",
        "a megabyte": "a small red bird " * 60_000,
        "a word of a megabyte": "x" * 1_000_000,
        "only signs": "@" * 20_000 + "#" * 20_000,
        "addresses": "http://" * 20_000,
        "markup": "<script>alert(1)</script> {{7*7}} ${jndi:ldap://x}",
    }
    parts.table(
        "texts.parquet",
        {"post_id": [f"text: {name}" for name in texts], "caption": list(texts.values())},
        statuses={f"text: {name}": "empty" if name == "only signs" else "image_missing" for name in texts},
    )
    nothing = {"null": None, "no letter": "", "blanks": " \t\r\n\u3000", "tags alone": "#one #two"}
    parts.table(
        "no text.parquet",
        {"post_id": [f"no text: {name}" for name in nothing], "caption": list(nothing.values())},
        "empty",
    )
    broken = [b"a bird \xff\xfe", b"\xed\xa0\x80 a lone surrogate", b"a cut bird \xf0\x9f"]
    raw = pa.array(broken, pa.binary())
    parts.table("text as bytes.parquet", {"caption": raw}, "image_missing")
    claimed = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    parts.table("text no UTF-8.parquet", {"caption": claimed}, "image_missing")
    parts.table("text dictionary.parquet", {"caption": claimed.dictionary_encode()}, "image_missing")
    users = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    parts.table("users no UTF-8.parquet", {"user_id": users}, "image_missing")


def _write_image_columns(parts: _Parts) -> None:
    jpeg = encoded(picture(), "JPEG")
    size = len(jpeg)
    for name, values in {
        "large_binary": pa.array([jpeg] * 3, pa.large_binary()),
        "binary of one size": pa.array([jpeg] * 3, pa.binary(size)),
        "dictionary": pa.array([jpeg] * 3).dictionary_encode(),
        "bytes and path": pa.array([{"bytes": jpeg, "path": "gone.jpg"}] * 3),
    }.items():
        parts.table(f"image as {name}.parquet", {"image": values})
    parts.table("image as null type.parquet", {"image": pa.nulls(3)}, "image_missing")
    parts.path("pictures/one.jpg").write_bytes(jpeg)
    held = [{"bytes": None, "path": "pictures/one.jpg"}, {"bytes": None, "path": "../gone.jpg"}, None]
    name = "image as path.parquet"
    statuses = {f"{name} {n}": status for n, status in enumerate(["ok", "image_missing", "image_missing"])}
    parts.table(
        name, {"image": pa.array(held, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}, statuses=statuses
    )
    told = "^image: expected binary, found "
    for name, values in {
        "text": pa.array(["iVBORw0KGgo=", None, "x"]),
        "list of numbers": pa.array([[255, 216], None, [1]]),
        "another struct": pa.array([{"data": b"x"}, None, {"data": b"y"}]),
    }.items():
        statuses = {f"image as {name}.parquet 1": "image_missing"}
        rejected = [(0, told), (2, told)]
        parts.table(f"image as {name}.parquet", {"image": values}, rejected=rejected, statuses=statuses)
    places = [
        "/etc/passwd",
        "file:///etc/passwd",
        "../../etc/passwd",
        "http://169.254.169.254/x",
        "nul\0l",
        "x" * 5_000,
        "",
        "\n",
    ]
    parts.table(
        "places.parquet",
        {"post_id": [f"place {n}" for n in range(8)], "caption": ["a bird"] * 8, "image_uri": places},
        "image_missing",
    )
    images = hostile_images()
    parts.table(
        "pictures.parquet",
        {
            "post_id": [f"picture: {name}" for name in images],
            "caption": ["a bird"] * len(images),
            "image": [image.data for image in images.values()],
        },
        statuses={f"picture: {name}": image.status for name, image in images.items()},
        row_group_size=40,
    )


def _write_shapes(parts: _Parts) -> None:
    parts.table("no rows.parquet", {"post_id": pa.array([], pa.string()), "caption": pa.array([], pa.string())})
    parts.table("nested/folders/é ü/part #1 100%.parquet", {}, "empty")
    parts.table("folder.parquet/inside.parquet", {}, "empty")
    schema = pa.schema({"post_id": pa.string()})
    with pq.ParquetWriter(parts.path("empty groups.parquet"), schema) as writer:
        for n in range(6):
            writer.write_table(pa.table({"post_id": [f"group {n}"] if n % 3 == 1 else []}, schema=schema))
    kept = {"group 1": "empty", "group 4": "empty"}
    parts.parts["empty groups.parquet"] = HostilePart(2, kept)
    with pq.ParquetWriter(parts.path("groups of one row.parquet"), schema) as writer:
        for n in range(50):
            writer.write_table(pa.table({"post_id": [f"alone {n}"]}, schema=schema))
    parts.parts["groups of one row.parquet"] = HostilePart(50, {f"alone {n}": "empty" for n in range(50)})


def _arrow() -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"post_id": ["a"]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
