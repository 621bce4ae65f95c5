"""Image regions: R features with their boxes, from one of three sources.

`grid`               the cells of the image encoder's feature map, pooled to `grid_side` x `grid_side`; R = grid_side^2
`detector:<hf>`      the R most confident boxes of a transformers detection model (DETR and its kin); a region's feature is the
                     mean of the image encoder's cells under its box, each cell by how much of it the box covers
`precomputed:<URI>`  a Parquet file, or a folder of them, with the columns `post_id`, `boxes` (R x 4) and `features` (R x D), for
                     people who have bottom-up-attention features; nested lists, or flat ones

Boxes are x0, y0, x1, y1 in [0, 1]. Shapes: n images, R regions, D features, H x W cells of the feature map, Q queries of a
detector.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from hashtag_core import storage
from hashtag_core.encoders import huggingface
from hashtag_core.errors import ArchiveError, ConfigError, IntegrityError, NotFoundError

DETECTOR, PRECOMPUTED = "detector:", "precomputed:"
COLUMNS = ("post_id", "boxes", "features")


def grid_boxes(side: int) -> np.ndarray:
    """float32 [side * side, 4]: x0, y0, x1, y1 of each cell in [0, 1], row by row from the top left."""
    edges = np.arange(side + 1, dtype=np.float32) / np.float32(side)
    row, column = np.divmod(np.arange(side * side), side)
    return np.stack([edges[column], edges[row], edges[column + 1], edges[row + 1]], axis=1)


def cells_under(boxes_nR4: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32 [n, R, H * W]: the share of each cell in the mean of the cells under a box; rows sum to 1.

    A cell counts by how much of it the box covers. A box without area takes the cell that its middle lies in.
    """

    def covered(low: np.ndarray, high: np.ndarray, cells: int) -> np.ndarray:
        edges = np.arange(cells + 1) / cells
        length = np.minimum(high[..., None], edges[1:]) - np.maximum(low[..., None], edges[:-1])
        share: np.ndarray = np.clip(length, 0, None)
        middle = np.clip(((low + high) / 2 * cells).astype(int), 0, cells - 1)
        empty = share.sum(-1) <= 0
        share[empty, middle[empty]] = 1.0
        return share

    x0, y0, x1, y1 = np.moveaxis(boxes_nR4.astype(np.float64), -1, 0)
    area = covered(y0, y1, height)[..., :, None] * covered(x0, x1, width)[..., None, :]
    area = area.reshape(*area.shape[:-2], height * width)
    shares: np.ndarray = (area / area.sum(-1, keepdims=True)).astype(np.float32)
    return shares


class Detector:
    """A transformers detection model; it sees the pixels that the image encoder sees, at the size that it was trained for."""

    def __init__(self, source: str, regions: int, device: torch.device) -> None:
        from transformers import AutoModelForObjectDetection

        where = f"encoders.regions: {DETECTOR}{source}"
        self.network, missing = huggingface.load_model(source, AutoModelForObjectDetection)
        if missing:
            raise ConfigError(f"{where}: its weights lack {min(missing)} ({len(missing)} parameters in all)")
        self.revision = huggingface.revision_of(source, self.network)
        queries = int(getattr(self.network.config, "num_queries", 0) or 0)
        if queries and queries < regions:
            raise ConfigError(
                f"{where}: it finds {queries} boxes, {regions} regions are asked for (encoders.grid_side^2)"
            )
        settings = huggingface.preprocessor_of(source)
        size = settings.get("size", {})
        size = size if isinstance(size, dict) else {"height": size}
        self.side_px = int(size.get("height") or size.get("shortest_edge") or 800)
        normal = settings.get("do_normalize", True)
        self.mean = torch.tensor(settings["image_mean"] if normal else [0.0] * 3, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(settings["image_std"] if normal else [1.0] * 3, device=device).view(1, 3, 1, 1)
        self.scale = float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
        self.regions, self.device = regions, device
        self.network.to(device)

    def boxes(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        """float32 [n, R, 4] of uint8 [n, side, side, 3], the most confident box first."""
        found = [self._boxes(images[n : n + batch_size]) for n in range(0, len(images), batch_size)]
        return np.concatenate([np.zeros((0, self.regions, 4), np.float32), *found])

    @torch.inference_mode()
    def _boxes(self, images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() * self.scale
        if pixels.shape[-1] != self.side_px:
            size = (self.side_px, self.side_px)
            pixels = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        output = self.network(pixel_values=(pixels - self.mean) / self.std)
        logits_nQC = output.logits.float()
        # DETR shares one softmax among the classes and "nothing"; its successors judge each class alone.
        if logits_nQC.shape[-1] == self.network.config.num_labels + 1:
            confidence_nQ = logits_nQC.softmax(-1)[..., :-1].amax(-1)
        else:
            confidence_nQ = logits_nQC.sigmoid().amax(-1)
        best_nR = confidence_nQ.topk(self.regions, dim=1).indices
        x, y, w, h = output.pred_boxes.float().gather(1, best_nR[..., None].expand(-1, -1, 4)).unbind(-1)
        boxes_nR4 = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)
        boxes: np.ndarray = boxes_nR4.clamp(0, 1).cpu().numpy()
        return boxes


@dataclass(frozen=True)
class _Places:
    """Where each post's row is: digests sorted."""

    digests: np.ndarray
    file_of: np.ndarray
    group_of: np.ndarray
    row_of: np.ndarray


class Precomputed:
    """Regions that somebody else computed. 28 bytes a row are held in memory, the values are read when they are asked for."""

    def __init__(self, uri: str, regions: int) -> None:
        self.uri, self.regions = uri, regions
        try:
            found = storage.list_files(uri, ".parquet")
        except NotFoundError:
            found = []
        self.files = [info.uri for info in found] or [uri]
        infos = found or [storage.file_info(uri)]
        described = "\n".join(f"{info.path} {info.size} {info.etag}" for info in infos)
        self.revision = hashlib.sha256(described.encode()).hexdigest()

    @cached_property
    def dim(self) -> int:
        """D, of the first row there is."""
        for file in self.files:
            with storage.open_input(file) as source:
                parquet = self._open(source, file)
                for batch in parquet.iter_batches(batch_size=1, columns=list(COLUMNS)):
                    if batch.num_rows:
                        return int(self._values(pa.Table.from_batches([batch]), file, np.zeros(1, int))[1].shape[2])
        raise ArchiveError(f"encoders.regions: {self.uri} has no row")

    def find(self, post_ids: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """bool [n], which posts have regions, and `image_grid` [n, R, D], `boxes` [n, R, 4] as float16, zeros for the others.

        Of several rows of one post the last counts. IntegrityError for a row that is none, naming file, row and field.
        """
        places = self._places
        wanted = _digests(post_ids)
        at = np.searchsorted(places.digests, wanted, side="right") - 1
        known = (
            (at >= 0) & (places.digests[np.maximum(at, 0)] == wanted)
            if len(places.digests)
            else np.zeros(len(wanted), bool)
        )
        arrays = {
            "image_grid": np.zeros((len(post_ids), self.regions, self.dim), np.float16),
            "boxes": np.zeros((len(post_ids), self.regions, 4), np.float16),
        }
        rows = np.flatnonzero(known)
        for file in np.unique(places.file_of[at[rows]]):
            of_file = rows[places.file_of[at[rows]] == file]
            with storage.open_input(self.files[file]) as source:
                parquet = self._open(source, self.files[file])
                starts = np.cumsum(
                    [0, *(parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups))]
                )
                for group in np.unique(places.group_of[at[of_file]]):
                    of_group = of_file[places.group_of[at[of_file]] == group]
                    taken = places.row_of[at[of_group]]
                    table = parquet.read_row_group(group, columns=list(COLUMNS)).take(pa.array(taken))
                    boxes, features = self._values(table, self.files[file], taken + starts[group])
                    top = float(np.finfo(np.float16).max)
                    arrays["boxes"][of_group] = boxes
                    arrays["image_grid"][of_group] = np.clip(features, -top, top)
        return known, arrays

    @cached_property
    def _places(self) -> _Places:
        digests, files, groups, rows = [], [], [], []
        for number, file in enumerate(self.files):
            with storage.open_input(file) as source:
                parquet = self._open(source, file)
                for group in range(parquet.num_row_groups):
                    ids = parquet.read_row_group(group, columns=["post_id"])["post_id"].to_pylist()
                    digests.append(_digests([post if post is not None else "" for post in ids]))
                    files.append(np.full(len(ids), number, np.int32))
                    groups.append(np.full(len(ids), group, np.int32))
                    rows.append(np.arange(len(ids), dtype=np.int32))
        none = np.zeros(0, np.int32)
        joined = np.concatenate([np.zeros(0, "S16"), *digests])
        order = np.argsort(joined, kind="stable")
        others = [np.concatenate([none, *column])[order] for column in (files, groups, rows)]
        return _Places(joined[order], *others)

    def _open(self, source: Any, file: str) -> pq.ParquetFile:
        try:
            parquet = pq.ParquetFile(source)
        except (pa.ArrowInvalid, OSError) as error:
            raise IntegrityError(f"{file}: not a Parquet file: {error}") from None
        lacking = [name for name in COLUMNS if name not in parquet.schema_arrow.names]
        if lacking:
            names = ", ".join(parquet.schema_arrow.names)
            raise ConfigError(f"encoders.regions: {file} has no column {', '.join(lacking)}; it has {names}")
        return parquet

    def _values(self, table: pa.Table, file: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """boxes [n, R, 4] and features [n, R, D] of those rows of a file."""
        found = []
        for name, width in (("boxes", 4), ("features", None)):
            column = table[name].combine_chunks()
            lengths = np.array([len(_flat(value)) for value in column], dtype=int)
            expected = self.regions * (width or (int(lengths.max(initial=0)) // self.regions))
            wrong = np.flatnonzero((lengths != expected) | (lengths == 0))
            if len(wrong):
                shape_words = f"{self.regions} x {width}" if width else f"{self.regions} x D, alike in all rows"
                raise IntegrityError(
                    f"{file}: row {rows[wrong[0]]}: {name}: {shape_words} numbers expected (encoders.grid_side^2 regions), found "
                    f"{lengths[wrong[0]]}"
                )
            values = np.array([_flat(value) for value in column], dtype=np.float32)
            found.append(values.reshape(len(table), self.regions, -1))
        outside = np.flatnonzero(~((found[0] >= 0) & (found[0] <= 1)).all(axis=(1, 2)))
        if len(outside):
            box = found[0][outside[0]].max()
            raise IntegrityError(
                f"{file}: row {rows[outside[0]]}: boxes: x0, y0, x1, y1 in [0, 1] expected, found {box:g}: divide pixels by "
                "the picture's width and height"
            )
        if not np.isfinite(found[1]).all():
            row = rows[np.flatnonzero(~np.isfinite(found[1]).all(axis=(1, 2)))[0]]
            raise IntegrityError(f"{file}: row {row}: features: a number is not finite")
        return found[0], found[1]


def _flat(value: pa.Scalar) -> np.ndarray:
    """The numbers of a list, nested or not; none for null."""
    if not value.is_valid:
        return np.zeros(0, np.float32)
    numbers: np.ndarray = pc.list_flatten(pa.array([value.as_py()], value.type), recursive=True).to_numpy(False)
    return numbers


def _digests(post_ids: list[str]) -> np.ndarray:
    found = b"".join(
        hashlib.blake2b(post.encode("utf-8", "surrogatepass"), digest_size=16).digest() for post in post_ids
    )
    return np.frombuffer(found, dtype="S16")
