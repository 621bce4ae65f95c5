"""Image regions: 36 features with their boxes, from one of three sources.

`grid`: the cells of the image encoder's feature map, pooled to `grid_side` x `grid_side`.
"""

import numpy as np


def grid_boxes(side: int) -> np.ndarray:
    """float32 [side * side, 4]: x0, y0, x1, y1 of each cell in [0, 1], row by row from the top left."""
    edges = np.arange(side + 1, dtype=np.float32) / np.float32(side)
    row, column = np.divmod(np.arange(side * side), side)
    return np.stack([edges[column], edges[row], edges[column + 1], edges[row + 1]], axis=1)
