"""What a file is, told by what it begins with."""

import pytest

from hashtag_core.data.file_signatures import other_content


@pytest.mark.parametrize(
    "begin",
    [
        b"id,caption\n",
        b'{"id": 1}',
        b"",
        b"version,id\n",
        b"ORCID;text\n",
        b"parent_id,id\n",
        b"PARENT,ID\n",
        b"PAR1,x\n",
        "größe;x".encode(),
    ],
)
def test_what_a_table_or_a_line_begins_with_is_nothing_else(begin: bytes) -> None:
    assert other_content(begin) is None
