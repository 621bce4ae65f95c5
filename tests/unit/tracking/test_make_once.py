"""What a lost answer made twice is there once."""

from types import SimpleNamespace
from typing import Any

import pytest

from hashtag_core.tracking.make_once import REQUEST, create_run, delete


class Client:
    """A server that made the run twice, since its first answer was lost."""

    def __init__(self, uri: str) -> None:
        self.tracking_uri, self.runs, self.deleted = uri, {}, []  # type: ignore[var-annotated]

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> Any:
        for run_id in ("lost", "told"):
            self.runs[run_id] = tags
        return SimpleNamespace(info=SimpleNamespace(run_id="told"))

    def search_runs(self, experiments: list[str], wanted: str) -> list[Any]:
        mark = wanted.split("'")[1]
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=i)) for i, tags in self.runs.items() if tags[REQUEST] == mark
        ]

    def delete_run(self, run_id: str) -> None:
        self.deleted.append(run_id)


@pytest.mark.parametrize(("uri", "deleted"), [("http://server", ["lost"]), ("sqlite:///mlflow.db", [])])
def test_the_run_that_nobody_was_told_of_goes(uri: str, deleted: list[str]) -> None:
    client = Client(uri)
    client.runs["anothers"] = {REQUEST: "other"}
    run = create_run(client, "0", "name", {"a": "b"})  # type: ignore[arg-type]
    assert (run.info.run_id, client.deleted) == ("told", deleted)
    assert client.runs["told"]["a"] == "b"


def test_gone_already_is_as_good_and_another_error_is_not() -> None:
    from mlflow.exceptions import RestException

    def fail(code: str) -> None:
        raise RestException({"error_code": code, "message": code})

    delete(fail, "RESOURCE_DOES_NOT_EXIST")
    with pytest.raises(RestException):
        delete(fail, "INTERNAL_ERROR")
