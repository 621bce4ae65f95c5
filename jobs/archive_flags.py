"""The flags that say how an archive is to be read: alike for every job that reads one."""

import argparse
from typing import Any

from hashtag_core.config import Recipe, validate_section
from hashtag_core.errors import UsageError
from jobs.common import recipe_of

FLAGS = ("format", "encoding", "delimiter", "date_format", "max_missing_images")
"""Each is a key of `[archive]`."""


def add_archive_flags(parser: argparse.ArgumentParser) -> None:
    """`--format`, and those of `add_reading_flags`."""
    parser.add_argument("--format", metavar="NAME", help="layout of the archive; the same as --set archive.format=NAME")
    add_reading_flags(parser)


def add_reading_flags(parser: argparse.ArgumentParser) -> None:
    """`--map`, `--encoding`, `--delimiter`, `--date-format`, `--image-host`: of tables that are no archive too."""
    parser.add_argument(
        "--map",
        dest="columns",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="a field of a post and the column or key that holds it (caption=text, image=filename)",
    )
    for flag, description in {
        "--encoding": "of tables and lines (cp1252, shift_jis, ...); by default each file's own",
        "--delimiter": "of tables: one character, or tab; by default each header's own",
        "--date-format": "how dates are written, as strptime has it ('%%d.%%m.%%Y %%H:%%M'), or unix, unix_ms, unix_us",
    }.items():
        parser.add_argument(
            flag, metavar="TEXT", help=f"{description}; [archive] {flag[2:].replace('-', '_')} of a recipe"
        )
    parser.add_argument(
        "--image-host",
        dest="image_hosts",
        action="append",
        default=[],
        metavar="HOST",
        help="a host that pictures at https:// addresses are fetched from (cdn.example.org); none by default",
    )


def add_missing_images_flag(parser: argparse.ArgumentParser) -> None:
    """`--max-missing-images`."""
    parser.add_argument(
        "--max-missing-images",
        metavar="SHARE",
        type=float,
        help="stop where more than this share (0 to 1) of the pictures that posts name is not there",
    )


def recipe_with_archive(arguments: argparse.Namespace) -> Recipe:
    """The recipe, with what flags say of the archive. UsageError or ConfigError for a flag that says nothing."""
    flags: dict[str, Any] = {name: value for name in FLAGS if (value := getattr(arguments, name, None)) is not None}
    named = dict(_mapped(text) for text in getattr(arguments, "columns", []))
    recipe = recipe_of(arguments)
    if named:
        flags["map"] = {**recipe.archive.map, **named}
    if arguments.image_hosts:
        flags["image_hosts"] = [*recipe.archive.image_hosts, *arguments.image_hosts]
    if not flags:
        return recipe
    section = validate_section(type(recipe.archive), {**recipe.archive.model_dump(), **flags}, "archive")
    return recipe.model_copy(update={"archive": section})


def archive_arguments(arguments: argparse.Namespace) -> list[str]:
    """The same flags again, for a job that another one starts."""
    given: list[str] = []
    for name in FLAGS:
        value = getattr(arguments, name, None)
        given += [] if value is None else [f"--{name.replace('_', '-')}={value}"]
    given += [f"--image-host={host}" for host in arguments.image_hosts]
    return given + [f"--map={text}" for text in arguments.columns]


def _mapped(text: str) -> tuple[str, str]:
    field, equals, column = text.partition("=")
    if not (equals and field.strip() and column):
        raise UsageError(f"--map {text!r}: expected FIELD=COLUMN, e.g. caption=text")
    return field.strip(), column
