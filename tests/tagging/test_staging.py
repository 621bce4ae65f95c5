"""Which chunks are there already."""

from pathlib import Path

from hashtag_core.tagging.staging import chunks_done


def test_whole_chunk_files_count_and_others_do_not(tmp_path: Path) -> None:
    for name in (
        "k1/00000.parquet",
        "k1/00012.parquet",
        "k2/00003.parquet",
        "k2/.00004.parquet",
        "k2/00005.parquet.tmp",
    ):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    assert chunks_done(str(tmp_path)) == {"k1": {0, 12}, "k2": {3}}
    assert chunks_done(str(tmp_path / "none")) == {}
