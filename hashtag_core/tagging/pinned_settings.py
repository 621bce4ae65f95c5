"""The settings of an output: what its first run pins, and what a later one may have otherwise."""

import logging
from collections.abc import Sequence
from typing import cast

from hashtag_core.config import ArchiveSection, ReadingOptions, TaggingSection
from hashtag_core.data.model_files import read_description
from hashtag_core.data.vocabulary import Vocabulary, read_tags
from hashtag_core.errors import ConfigError
from hashtag_core.output.layout import Layout
from hashtag_core.output.records import TagSettings
from hashtag_core.recommend.policy import Policy, read_thresholds, tell_tags
from hashtag_core.tagging.planned_work import TagRequest
from hashtag_core.tracking.registry import ResolvedModel

logger = logging.getLogger(__name__)


def settings_of(
    request: TagRequest, archive: str, model_hash: str, policy: Policy, extra: Sequence[str]
) -> TagSettings:
    """What a run with this request depends on besides the content of the archive."""
    section, encoders, model = request.recipe.tagging, request.recipe.encoders, request.model
    return TagSettings(
        archive=archive,
        model_name=model.name,
        model_version=model.version,
        model_hash=model_hash,
        top_k=section.top_k,
        chunk_rows=section.chunk_rows,
        batch_size=section.batch_size,
        backend=encoders.backend,
        precision=encoders.precision,
        min_score=policy.min_score,
        diversity=request.recipe.recommend.diversity,
        **policy.as_settings,
        extra_tags=tell_tags(dict.fromkeys(extra, 0.0)),
        image_prefixes=section.image_prefixes,
        max_image_bytes=request.recipe.archive.max_image_bytes,
        image_hosts=request.recipe.archive.image_hosts,
        reading=_reading(request.recipe.archive),
    )


def check_settings(request: TagRequest, layout: Layout, settings: TagSettings, before: TagSettings) -> None:
    """ConfigError where rows tagged with the settings of before, which differ, cannot stand beside those of now, or nobody said that
    they may."""
    differing, may_stand = settings.differing(before), settings.fits_tagged(before)
    if not (may_stand and request.keep_tagged):
        more = ", or tag new and changed parts alone with them: --keep-tagged" if may_stand else ""
        raise ConfigError(
            f"{layout.tagged} was tagged with other settings ({'; '.join(differing)}): use the same, or another --out, or "
            f"tag all of it again with --retag{more}"
        )
    logger.warning(
        "%s: what is tagged stays; new and changed parts are tagged with %s", layout.out, "; ".join(differing)
    )


def allowed_tags(section: TaggingSection, model: ResolvedModel, vocabulary: Vocabulary) -> Policy:
    """What is allowed of the tags: names that none of them has are left out, for rows do not depend on them."""
    deny, thresholds = read_tags(section.deny, section.deny_file, "tagging.deny"), read_thresholds(model.folder)
    known = vocabulary.index.keys()
    return Policy(section.min_score, deny & known, {tag: least for tag, least in thresholds.items() if tag in known})


def unknown_extra_tags(section: TaggingSection, model: ResolvedModel, vocabulary: Vocabulary) -> list[str]:
    """The tags by name alone, in an order that does not depend on that of the list; those that the model knows are left out.

    ConfigError for a model of a family that cannot give them.
    """
    wanted = read_tags(section.extra_tags, section.extra_tags_file, "tagging.extra_tags")
    if not wanted:
        return []
    from hashtag_core.models import parse_options  # brings torch, for these runs alone
    from hashtag_core.recommend.extra_tags import check_reads_names, unknown_tags

    described = read_description(model.folder)
    check_reads_names(described["family"], parse_options(described["family"], described["options"]))
    return unknown_tags(sorted(wanted), vocabulary)


def _reading(section: ArchiveSection) -> ReadingOptions:
    """What decides how rows are read, where it is not the default."""
    dumped = section.model_dump(include=set(ReadingOptions.__annotations__), exclude_defaults=True)
    return cast(ReadingOptions, dumped)
