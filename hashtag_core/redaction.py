"""What may be shown of a text: no secret, and no character that makes two lines of one.

Every message of ours goes through both (`errors.HashtagError`, the log of the jobs), so that a password in a URI is printed
nowhere, and a file name with a newline in it writes no line of the log by itself.
"""

import re

HIDDEN = "***"

_PASSWORD = re.compile(r"([A-Za-z0-9+.\-]{1,32}://[^\s/?#@:\"']{0,256}:)(?!\d+(?:[/?#,\s\"']|$))[^\s\"'<>]{0,1024}@")
"""`scheme://user:password@`, to the last `@` of the word: passwords hold `@`, `/` and `#` where nobody escaped them. Digits
up to a slash are a port. The lengths are bounded, so that time is linear."""

_TOKEN = re.compile(r"(https?://)[^\s/?#@:\"'<>]{1,1024}@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"((?:[?&;](?:\w{0,32}(?:token|secret|signature|sig|credential|api_?key|accesskeyid)|x-amz-[\w-]{1,32})|(?<![A-Za-z])(?:ssl)?(?:password|passwd|pwd))=)"
    r"[^&;\s\"'#<>]+",
    re.IGNORECASE,
)
_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line and paragraph separators, what turns the direction of text, and halves of surrogate pairs (bytes
of a file name that are no UTF-8)."""


def redact(text: str) -> str:
    """The text with `***` in place of every secret in its URIs: a password or a token before `@`, a signature, token or
    password among the parameters. Users, hosts and paths stay."""
    if "://" in text:
        text = _TOKEN.sub(rf"\1{HIDDEN}@", _PASSWORD.sub(rf"\1{HIDDEN}@", text))
    return _PARAMETER.sub(rf"\1{HIDDEN}", text) if "=" in text else text


def one_line(text: str) -> str:
    """The text with control characters, and others that forge or hide text, as Python escapes them: a newline as `\\n`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
