"""The model registry as other rooms use it: versions (`versions`) and the aliases over them (`champion`)."""

from hashtag_core.tracking.champion import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Move,
    champion,
    champion_moves,
    move_champion,
    previous_champion,
    rollback,
    rollback_target,
    set_challenger,
)
from hashtag_core.tracking.lineage import lineage, lineage_lines
from hashtag_core.tracking.versions import (
    ResolvedModel,
    download_version_file,
    find_version,
    list_versions,
    model_uri,
    register_model_folder,
    resolve_model,
    set_version_tags,
    version_run,
    version_signature,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "Move",
    "ResolvedModel",
    "champion",
    "champion_moves",
    "download_version_file",
    "find_version",
    "lineage",
    "lineage_lines",
    "list_versions",
    "model_uri",
    "move_champion",
    "previous_champion",
    "register_model_folder",
    "resolve_model",
    "rollback",
    "rollback_target",
    "set_challenger",
    "set_version_tags",
    "version_run",
    "version_signature",
]
