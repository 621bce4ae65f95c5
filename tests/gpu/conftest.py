"""What someone with a CUDA card runs: `make gpu`. It ends with one table of what was found.

`GPU_TESTS_DEVICE=cpu make gpu` takes the same paths on a CPU, to try the tests themselves where there is no card; what is measured then
says nothing of a GPU.
"""

import os
from collections.abc import Callable, Iterator

import pytest
import torch

ROWS = pytest.StashKey[list[tuple[str, str, str]]]()
Tell = Callable[[str, str, str], None]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The card that is tried; skips where there is none."""
    wanted = torch.device(os.environ.get("GPU_TESTS_DEVICE", "cuda"))
    if wanted.type == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch {torch.__version__} is built for CUDA {built}, and finds no device" if built else (
            f"torch {torch.__version__} is a build without CUDA"
        )  # fmt: skip
        pytest.skip(f"no CUDA: {why}; GPU_TESTS_DEVICE=cpu tries the tests themselves")
    return wanted


@pytest.fixture(scope="session")
def tell(request: pytest.FixtureRequest) -> Tell:
    """`tell(subject, what, figure)`: a line of the table at the end."""
    rows = request.config.stash.setdefault(ROWS, [])
    return lambda subject, what, figure: rows.append((subject, what, figure))


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    """Matrix products in float32 are computed in float32: TF32 would hide what is to be compared."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    name = os.environ.get("GPU_TESTS_DEVICE", "cuda")
    shown = torch.cuda.get_device_name() if name.startswith("cuda") else f"{name}, no GPU"
    terminalreporter.section(f"{shown}, torch {torch.__version__}")
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for subject, what, figure in sorted(rows):
        terminalreporter.write_line(f"{subject:<{widths[0]}}  {what:<{widths[1]}}  {figure}")
