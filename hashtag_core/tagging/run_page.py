"""A tagging run to look at: `<run>.html` and, for a chat, `<run>.md`, beside the run's record."""

import logging
from typing import Any

from hashtag_core import storage
from hashtag_core.errors import HashtagError, NotFoundError
from hashtag_core.evaluation.tagging_report import RUNS_SHOWN, TaggingRecord, tagging_markdown, tagging_page
from hashtag_core.output.layout import runs_folder
from hashtag_core.tracking.tagging import TagRunRecord

logger = logging.getLogger(__name__)

LOOKED_THROUGH = 100
"""Records before this one that are read for those to compare with."""


def write_run_page(out: str, run_id: str, **more: Any) -> str | None:
    """Write both files of the run `run_id` of an output; the page's URI. `more`: fields of `TaggingRecord` that a record does not have
    (examples of rejected rows, posts of low confidence, slow parts).

    The output is whole by then: what cannot be read or written is a warning, and None.
    """
    folder = runs_folder(out)
    try:
        record: TagRunRecord = storage.read_json(storage.join(folder, f"{run_id}.json"))
        made = TaggingRecord.of_run(record, _earlier(folder, record), out=out, **more)
        storage.write_bytes(storage.join(folder, f"{run_id}.md"), tagging_markdown(made).encode("utf-8", "replace"))
        page = storage.join(folder, f"{run_id}.html")
        storage.write_bytes(page, tagging_page(made).encode("utf-8", "replace"))
    except (HashtagError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("the output is whole, but there is no page of run %s: %s", run_id, error)
        return None
    return page


def _earlier(folder: str, record: TagRunRecord) -> list[TagRunRecord]:
    """Finished runs with tags of the same model name on the same archive, the newest first."""
    try:
        names = [info for info in storage.list_files(folder, ".json") if info.path < f"{record['run']}.json"]
    except NotFoundError:
        return []
    wanted = [record["settings"].get(name) for name in ("model_name", "archive")]
    found: list[TagRunRecord] = []
    for info in names[: -LOOKED_THROUGH - 1 : -1]:
        other: TagRunRecord = storage.read_json(info.uri)
        settings = other.get("settings", {})
        if (
            other.get("status") == "done"
            and other.get("tags")
            and [settings.get("model_name"), settings.get("archive")] == wanted
        ):
            found.append(other)
        if len(found) == RUNS_SHOWN:
            break
    return found
