"""Outputs of the layout before the table: refused, or taken over."""

from hashtag_core import storage
from hashtag_core.errors import ConfigError
from hashtag_core.output.layout import Layout


def refuse_old_output(layout: Layout) -> None:
    """ConfigError for an output of the layout of manifests."""
    old = storage.join(layout.out, "_state")
    if not storage.exists(storage.join(layout.out, "_delta_log")) and storage.exists(
        storage.join(layout.state, "manifests")
    ):
        raise ConfigError(
            f"{layout.out}: was written by a version before the Delta table ({old} holds its manifests): take it over once with "
            "`jobs/tag.py migrate --out OUT --archive URI`; nothing is tagged again"
        )
