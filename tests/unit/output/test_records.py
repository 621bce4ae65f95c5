"""The records of an output: settings that differ, names of files."""

from hashtag_core.output.records import TagSettings, columns_name, vectors_name

SETTINGS = TagSettings(
    archive="a", model_name="m", model_version="1", model_hash="h", top_k=5, chunk_rows=10, batch_size=4, backend="torch",
    precision="float32",
)  # fmt: skip


def test_what_differs_is_named_with_both_values() -> None:
    other = SETTINGS.model_copy(update={"top_k": 7, "reading": {"format": "csv"}})
    assert other.differing(SETTINGS) == ["top_k was 5, now 7", "reading was {}, now {'format': 'csv'}"]
    assert SETTINGS.differing(SETTINGS) == []


def test_settings_are_read_as_they_were_written_and_an_archive_as_it_was_read() -> None:
    reading = {"format": "csv", "map": {"caption": "text"}, "delimiter": ";"}
    settings = SETTINGS.model_copy(update={"reading": reading})
    assert TagSettings.model_validate_json(settings.model_dump_json()) == settings
    assert settings.source().section.map == {"caption": "text"}
    assert settings.source("b").uri == "b"


def test_names_change_with_all_that_they_are_of() -> None:
    names = {columns_name(path, etag) for path in ("a", "b") for etag in ("1", "2")}
    names |= {vectors_name(SETTINGS, path, etag) for path in ("a", "b") for etag in ("1", "2")}
    names.add(vectors_name(SETTINGS.model_copy(update={"chunk_rows": 11}), "a", "1"))
    assert len(names) == 9
    assert {len(name) for name in names} == {24}
