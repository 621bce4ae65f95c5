"""What a file is that is not what its name says, told by what it begins with: the true reason for refusing it."""

import re

LFS_POINTER = "a Git LFS pointer in place of the file: run `git lfs pull`"

# Letters that a header may begin with (PARENT, ORCID) are asked for a control byte behind them.
_KINDS = {
    LFS_POINTER: rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/",
    "a git-annex pointer in place of the file: run `git annex get`": rb"/annex/objects/|\.\./.{0,200}/annex/objects/",
    "an HTML page (of a login or an error?)": rb"(?i:\s*<(?:!doctype\s+)?html)",
    "an XML document": rb"\s*<\?xml",
    "an Excel workbook of before 2007: save it as CSV": rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "a SQLite database: export its table": rb"SQLite format 3\0",
    "Parquet": rb"PAR1(?=.*[\0-\x08])",
    "encrypted Parquet, which is not read": rb"PARE(?=.*[\0-\x08])",
    "ORC, which is not read: write Parquet": rb"ORC(?=.*[\0-\x08])",
    "Avro, which is not read: write Parquet": rb"Obj\x01",
    "an Arrow file, which is not read: write Parquet": rb"ARROW1\0\0|\xff\xff\xff\xff.{4}\x10\0\0\0",
    "a PDF": rb"%PDF-",
    "packed with gzip as a whole: unpack it": rb"\x1f\x8b",
    "packed with bzip2 as a whole: unpack it": rb"BZh[1-9]1AY&SY",
    "packed with xz as a whole: unpack it": rb"\xfd7zXZ\0",
    "packed with Zstandard as a whole: unpack it": rb"\x28\xb5\x2f\xfd",
    "a zip file or an Excel workbook: unpack it, or save it as CSV": rb"PK\x03\x04",
}


def other_content(begin: bytes) -> str | None:
    """What a file that begins with these bytes is, where that is nothing that holds posts by itself; None where they do not say."""
    return next((kind for kind, pattern in _KINDS.items() if re.match(pattern, begin, re.DOTALL)), None)
