"""A model folder and posts in, ranked hashtags out: the path that evaluation, bulk tagging and notebooks share.

A post goes through three steps, each of which can be called alone: `open_posts` (clean the caption, decode the image,
note what is missing or broken), `featurize` (the model's own encoders, or a cache of them), `rank` (the model, and the
order of ties). What a post cannot give is absent to the model, never a blank picture or an empty text.

Scores depend on the other posts of a batch only in the last digits, as far as the encoders' arithmetic does; who needs
them the same to the last digit calls with the same posts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from hashtag_core.config import CaptionsSection, EncodersSection
from hashtag_core.data.archive_history import ArchivePosts, TagFinder, only_last
from hashtag_core.data.batches import FeaturizedPosts, PostBatch, collate
from hashtag_core.data.feature_cache import FeatureCache
from hashtag_core.data.history import HistoryRule, find_history
from hashtag_core.data.history_batch import ArrayPosts, History
from hashtag_core.data.images import image_key
from hashtag_core.encoders import Encoders, load_encoders
from hashtag_core.encoders.trained import trained_tops
from hashtag_core.errors import ConfigError, ScoreError
from hashtag_core.models import family, list_models
from hashtag_core.models.folder import LoadedModel, load_model_folder
from hashtag_core.recommend.described import check_identity
from hashtag_core.recommend.explanations import EXPLAINED, explained
from hashtag_core.recommend.extra_tags import with_tags
from hashtag_core.recommend.feature_rows import history_vectors, put_rows, slice_of
from hashtag_core.recommend.image_uris import ImagePlaces
from hashtag_core.recommend.notebook_tables import Posts
from hashtag_core.recommend.policy import Policy
from hashtag_core.recommend.ranking import less_popular, popularity_logits, top_tags
from hashtag_core.recommend.read_posts import READ, READ_WITH_HISTORY, OpenedPosts, normalised, open_posts
from hashtag_core.schema import TAGGED


class Recommender:
    """One model, ready to recommend. Make it with `load`."""

    def __init__(
        self,
        loaded: LoadedModel,
        encoders: Encoders,
        name: str,
        version: str,
        device: torch.device,
        places: ImagePlaces | None = None,
        policy: Policy | None = None,
        diversity: float = 0.0,
    ) -> None:
        self.loaded = loaded
        self.encoders = encoders
        self.name = name
        self.version = version
        self.device = device
        self.places = places or ImagePlaces()
        self.batch_size = encoders.section.batch_size
        self.policy = policy or Policy()
        self.diversity = diversity
        self._take_tags(loaded.vocabulary.tags)
        self.captions = CaptionsSection(**loaded.info.get("captions", {}))

    @classmethod
    def load(
        cls,
        model: str,
        device: str = "auto",
        *,
        name: str | None = None,
        version: str | None = None,
        threads: int | None = None,
        places: ImagePlaces | None = None,
        policy: Policy | None = None,
        diversity: float = 0.0,
        encoders_by: Callable[..., Encoders] = load_encoders,
        **encoding: Any,
    ) -> Self:
        """The model of a folder (local or `s3://`) or of `models:/NAME/VERSION`, `models:/NAME@ALIAS`.

        `device`: a torch device, or `auto` for the first GPU, else the CPU. `name` and `version` are stamped on every
        row in place of the folder's own. `threads`: CPU threads of this process. `places`: where images by reference may
        come from (default: the archive and its bucket). `policy`: which tags may be given (default: all). `diversity`: see
        `ranking.less_popular`; above 0 scores are no probabilities. `encoders_by`: what loads the encoders, as `load_encoders`. `encoding`:
        `backend`, `precision` and `batch_size` of the encoders, where they are to differ from the recipe the model was
        trained by.

        Raises NotFoundError for a model that does not exist, IntegrityError for a broken folder or for encoders that are
        not those the model was trained on.
        """
        from hashtag_core.tracking.registry import resolve_model  # brings mlflow for `models:/` alone

        resolved = resolve_model(model)
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        loaded = load_model_folder(resolved.folder, str(where), trained_tops)
        section = EncodersSection(**{**loaded.info.get("recipe", {}).get("encoders", {}), **encoding})
        needs = family(loaded.family).needs(loaded.options)
        encoders = encoders_by(section, needs, str(where), threads=threads)
        check_identity(model, loaded.info.get("encoders", {}), encoders.identity)
        named = name or resolved.name, version or resolved.version
        return cls(loaded, encoders, *named, where, places, policy, diversity)

    def add_tags(self, tags: Sequence[str]) -> list[str]:
        """Recommend these tags too, of which nothing is known but their names; those that are known already are left out.

        Returns the ones that are new, normalised, in the order in which they stand behind the others. ConfigError for what
        is no tag, and for a family that does not read what tags are called. Call it before the first post.
        """
        self.loaded, new = with_tags(self.loaded, self.encoders, tags, self.device)
        self._take_tags(self.loaded.vocabulary.tags)
        return new

    def _take_tags(self, tags: Sequence[str]) -> None:
        self.tags = list(tags)
        least = self.policy.least_scores(self.tags)
        self._least_V = None if least is None else torch.from_numpy(least)
        self._popularity_V = popularity_logits(self.loaded.vocabulary.counts, self.loaded.vocabulary.posts)

    @property
    def needs(self) -> frozenset[str]:
        """Names of `batches.FEATURES` that the model reads."""
        return self.encoders.needs

    def recommend(
        self,
        posts: Posts,
        top_k: int = 10,
        cached: FeatureCache | None = None,
        archive: str | None = None,
        history: Posts | None = None,
        explain: bool = False,
    ) -> pa.Table:
        """The `top_k` best hashtags of each post, in the TAGGED schema, one row a post in the order given.

        `posts`: a table in the POST schema (absent columns are absent): of Arrow, pandas, Polars or whatever else speaks
        Arrow's C stream, a record batch, a list of dicts with its fields, or one such dict. What pandas has for a missing value
        (NaN, NaT, NA) is one. `cached`:
        features of the model's encoders; what is not in it is encoded. `archive`: the folder that an `image_uri` which
        is a path lies in, and whose bucket one with `s3://` may name (others: `load(places=...)`). `history`: more posts of the same users, which are not
        tagged; a model that reads the history finds it there and among `posts` (see `hashtag_core.data.history` for which
        posts it takes), by their `user_id`, `created_at` and hashtags. Of several posts with one id the last one counts.

        `explain`: one column more, `explanation`, a list as long as that of the tags, which says for each how much came from
        the image, the caption, which posts of the history and which other posts (`recommend.explanations`).

        ConfigError for a row that is no post, naming row and field, and for `explain` of a family that cannot.
        """
        if top_k < 1:
            raise ConfigError(f"top_k: expected at least 1, found {top_k}")
        if explain and not self.loaded.model.explains:
            able = ", ".join(name for name in list_models() if family(name).explains)
            raise ConfigError(
                f"explain: the family {self.loaded.family} does not say where a tag comes from; {able} do"
            )
        rule = self.loaded.history
        schema = READ if rule is None else READ_WITH_HISTORY
        table = normalised(posts, "", schema)
        opened = self.open_posts(table, cached=cached, archive=archive)
        features = self.featurize(opened, cached)
        others = normalised([] if history is None or rule is None else history, "history: ", schema)
        past = None if rule is None else self._history(rule, table, features, others, cached, archive)
        ranked = self.rank(features, top_k, past)
        tagged = self._tagged(opened, ranked)
        if not explain:
            return tagged
        names = [*others["post_id"].to_pylist(), *opened.post_ids]
        return tagged.append_column("explanation", self._explained(features, ranked, past, names))

    def tag(
        self, posts: OpenedPosts, top_k: int, cached: FeatureCache | None = None, history: History | None = None
    ) -> pa.Table:
        """`recommend` for posts that are opened already, row-aligned with their histories."""
        return self._tagged(posts, self.rank(self.featurize(posts, cached), top_k, history))

    def _history(
        self,
        rule: HistoryRule,
        table: pa.Table,
        features: FeaturizedPosts,
        others: pa.Table,
        cached: FeatureCache | None,
        archive: str | None,
    ) -> History:
        """The histories of the posts of a table, in itself and in `others`, of which only what is needed is encoded."""
        posts = ArchivePosts(TagFinder(self.loaded.vocabulary))
        posts.add(others)
        posts.add(table)
        columns = posts.columns()
        only_last(columns)
        rows_NH = find_history(columns, rule, first=others.num_rows)
        vectors = {}
        if rule.reads:
            used = np.unique(rows_NH[(rows_NH >= 0) & (rows_NH < others.num_rows)])
            opened = self.open_posts(others.take(pa.array(used)), cached=cached, archive=archive)
            vectors = history_vectors(
                rule,
                len(columns),
                [(used, self.featurize(opened, cached)), (np.arange(others.num_rows, len(columns)), features)],
            )
        return History(rows_NH, ArrayPosts(*posts.tag_arrays(), vectors), rule.reads)

    def _tagged(self, posts: OpenedPosts, ranked: tuple[np.ndarray, np.ndarray]) -> pa.Table:
        indices_NK, scores_NK = ranked
        n, given_NK = len(indices_NK), scores_NK >= 0
        offsets = pa.array(np.concatenate([[0], given_NK.sum(axis=1).cumsum()]).astype(np.int32))
        tags = pa.array(self.tags, pa.string()).take(pa.array(indices_NK[given_NK]))
        columns = [
            pa.array(posts.post_ids, pa.string()),
            pa.ListArray.from_arrays(offsets, tags),
            pa.ListArray.from_arrays(offsets, pa.array(scores_NK[given_NK], pa.float32())),
            pa.array(posts.statuses, pa.string()),
            pa.array(posts.details, pa.string()),
            pa.array([self.name] * n, pa.string()),
            pa.array([self.version] * n, pa.string()),
        ]
        return pa.Table.from_arrays(columns, names=TAGGED.names).cast(TAGGED)

    def open_posts(
        self, posts: pa.Table, cached: FeatureCache | None = None, archive: str | None = None
    ) -> OpenedPosts:
        """Clean the captions and decode the images of a table that `normalise_posts` gave (at least the columns of `READ`).

        An image is decoded even for a model that does not look at it, so that a broken one is reported; not where
        `cached` already tells what is in it. A post with bytes is not asked for its `image_uri`.
        """
        places = replace(self.places, archive=archive or self.places.archive)
        known = self._cached_images(posts["image"], cached)
        return open_posts(posts, places, self.captions, self.encoders.image_side_px, known)

    def featurize(self, posts: OpenedPosts, cached: FeatureCache | None = None) -> FeaturizedPosts:
        """The features that the model needs, from the cache where it has them, else from the encoders."""
        image_present = np.array(
            [p is not None or k is not None for p, k in zip(posts.images, posts.image_keys, strict=True)], bool
        )
        text_present = np.array([caption is not None for caption in posts.captions], bool)
        arrays = self._zeros(len(posts))
        rows = [row for row, key in enumerate(posts.image_keys) if key is not None]
        if rows and cached is not None:
            for kind in self._image_kinds:
                values = cached.lookup(kind, [posts.image_keys[row] for row in rows])[1][kind]
                put_rows(arrays, kind, rows, values)
        pixels = {row: image for row, image in enumerate(posts.images) if image is not None}
        if pixels and self._image_kinds:
            for name, values in self.encoders.encode_images(list(pixels.values())).items():
                put_rows(arrays, name, list(pixels), values)
            if self.encoders.precomputed:
                found, values_of = self.encoders.precomputed_regions([posts.post_ids[row] for row in pixels])
                for name, values in values_of.items():
                    put_rows(arrays, name, list(pixels), values)
                image_present[list(pixels)] = found  # without regions there is nothing to look at
        self._put_captions(arrays, posts, cached)
        return FeaturizedPosts(posts.post_ids, posts.user_ids, posts.captions, image_present, text_present, arrays)

    def rank(
        self,
        posts: FeaturizedPosts,
        top_k: int,
        history: History | None = None,
        observe: Callable[[np.ndarray], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vocabulary indices [N, K] (int64) of the best tags, best first, and their scores (float32, in [0, 1]; -1
        at the end of the list for a tag that the policy does not allow).

        `history`: of the same posts, row-aligned; a model that reads one takes a missing one for empty histories. `observe` is
        called with the scores of all tags, [B, V], of some posts at a time, in their order.
        ScoreError, naming the first of them, for a post with a score that is not finite.
        """
        indices, scores = [], []
        for batch in self._batches(posts, history):
            with torch.inference_mode():
                scores_BV = self.loaded.model.score(batch).float().cpu()
            finite = torch.isfinite(scores_BV.sum())  # one pass: a sum of shares and probabilities does not overflow
            if not finite and not torch.isfinite(scores_BV).all():
                row = int((~torch.isfinite(scores_BV)).any(dim=1).nonzero()[0])
                raise ScoreError(
                    f"model {self.name} {self.version}: a score of post {batch.post_ids[row]!r} is not finite"
                )
            scores_BV = less_popular(scores_BV.clamp(0.0, 1.0), self._popularity_V, self.diversity)
            if self._least_V is not None:
                scores_BV[scores_BV < self._least_V] = -1.0
            if observe is not None:
                observe(scores_BV.numpy())
            indices_BK, scores_BK = top_tags(scores_BV, top_k)
            indices.append(indices_BK.numpy())
            scores.append(scores_BK.numpy())
        width = min(top_k, len(self.tags))
        return (
            np.concatenate([np.zeros((0, width), np.int64), *indices]),
            np.concatenate([np.zeros((0, width), np.float32), *scores]),
        )

    def _batches(self, posts: FeaturizedPosts, history: History | None) -> Iterator[PostBatch]:
        for start in range(0, len(posts.post_ids), self.batch_size):
            piece = slice_of(posts, start, start + self.batch_size)
            past = None if history is None else history.batch(np.arange(start, start + len(piece.post_ids)))
            yield collate(piece, self.needs, self.loaded.tokenizer, self.loaded.options.inputs, past).to(self.device)

    def _explained(
        self,
        posts: FeaturizedPosts,
        ranked: tuple[np.ndarray, np.ndarray],
        history: History | None,
        names: Sequence[str],
    ) -> pa.Array:
        """The column `explanation`; `names` are the post ids of the rows that a history is made of."""
        indices_NK, scores_NK = ranked
        rows_NH = np.zeros((len(indices_NK), 0), np.int64) if history is None else history.rows_NH
        past = [[names[row] for row in rows if row >= 0] for rows in rows_NH.tolist()]
        values: list[Any] = []
        for batch in self._batches(posts, history):
            here = slice(len(values), len(values) + len(batch))
            values += explained(self.loaded.model, batch, indices_NK[here], self.tags, past[here])
        given = [list(compress(tags, scores >= 0)) for tags, scores in zip(values, scores_NK, strict=True)]
        return pa.array(given, pa.list_(EXPLAINED))

    @property
    def _image_kinds(self) -> list[str]:
        return [name for name, kind in self.encoders.kinds.items() if kind.of == "image"]

    def _cached_images(
        self, images: pa.ChunkedArray, cached: FeatureCache | None
    ) -> dict[int, tuple[str | None, str | None]]:
        """Row -> (key, None) of images whose features are cached, (None, reason) of those known as unreadable."""
        if cached is None or not self._image_kinds:
            return {}
        keys = {row: image_key(data.as_py()) for row, data in enumerate(images) if data.is_valid}
        missing = {key for kind in self._image_kinds for key in cached.missing(kind, keys.values())}
        reasons = {key: why for kind in self._image_kinds for key, why in cached.unreadable(kind).items()}
        return {
            row: (None, reasons[key]) if key in reasons else (key, None)
            for row, key in keys.items()
            if key not in missing
        }

    def _put_captions(self, arrays: dict[str, np.ndarray], posts: OpenedPosts, cached: FeatureCache | None) -> None:
        present = {row: caption for row, caption in enumerate(posts.captions) if caption is not None}
        kinds = [name for name in ("text_vector", "text_states", "text_trunk") if name in self.needs]
        if cached is not None and kinds:
            keys = {row: image_key(caption.encode()) for row, caption in present.items()}
            missing = {key for kind in kinds for key in cached.missing(kind, keys.values())}
            rows = [row for row, key in keys.items() if key not in missing]
            for kind in kinds if rows else []:
                for name, values in cached.lookup(kind, [keys[row] for row in rows])[1].items():
                    put_rows(arrays, name, rows, values)
                present = {row: caption for row, caption in present.items() if keys[row] in missing}
        if present and kinds:
            for name, values in self.encoders.encode_captions(list(present.values())).items():
                put_rows(arrays, name, list(present), values)

    def _zeros(self, n: int) -> dict[str, np.ndarray]:
        """What the model needs of n posts, all absent; token states are of length 0."""
        arrays: dict[str, np.ndarray] = {}
        for name, kind in self.encoders.kinds.items():
            arrays[name] = np.zeros((n, 0, kind.dim) if kind.ragged else (n, *kind.shape), np.float16)
            if kind.ragged:
                arrays[f"{name}_mask"] = np.zeros((n, 0), bool)
        if {"image_grid", "image_trunk"} & self.needs and self.encoders.boxes is not None:
            arrays["boxes"] = self.encoders.boxes
        return arrays
