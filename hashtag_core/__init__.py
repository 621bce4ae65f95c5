"""Learn to recommend hashtags for posts, and tag whole archives with them.

::

    from hashtag_core import Recommender
    Recommender.load("models:/hashtag-recommender@champion").recommend(posts, top_k=10)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashtag_core.recommend.recommender import Recommender

__all__ = ["Recommender"]


def __getattr__(name: str) -> Any:
    if name == "Recommender":  # on first use: it brings torch with it
        from hashtag_core.recommend.recommender import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a notebook offers after the dot, also before its first use."""
    return sorted({*globals(), *__all__})
