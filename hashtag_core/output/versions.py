"""The models and versions that an output holds anything of."""

from urllib.parse import unquote

from hashtag_core import storage
from hashtag_core.errors import NotFoundError
from hashtag_core.output.fenced_table import open_table
from hashtag_core.output.layout import Layout, absolute_output
from hashtag_core.storage import FileInfo


def versions_of(out: str) -> list[Layout]:
    """Every model and version with rows, records or state below an output, sorted. NotFoundError where there is none."""
    found = {tuple(info.path.split("/")[:2]) for info in listed(storage.join(out, "_state"))}
    pairs = {
        (unquote(steps[0].partition("=")[2]), unquote(steps[1].partition("=")[2]))
        for steps in found
        if len(steps) == 2 and steps[0].startswith("model=") and steps[1].startswith("version=")
    }
    here = Layout(absolute_output(out), "", "")
    for uri in (here.out, here.rejected, here.records):
        table = open_table(uri)
        for file in () if table is None else table.files():
            pairs.add((file.partition["model"] or "", file.partition["version"] or ""))
    if not pairs:
        raise NotFoundError(f"{out}: no tagged output: neither a table nor anything of a model below _state")
    return [Layout(here.out, model, version) for model, version in sorted(pairs)]


def listed(uri: str) -> list[FileInfo]:
    """All files below a folder, hidden ones too; none where it is not there."""
    try:
        return storage.list_files(uri, hidden=True)
    except NotFoundError:
        return []
