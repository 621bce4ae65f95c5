"""The rooms are what CONTRIBUTING and import-linter say they are, none too large, the room of Ray the smallest that it can be."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

TESTED_TOGETHER = {
    # Types and constants alone: mypy and whoever writes them are their tests.
    None: (
        "data/model_record",
        "evaluation/board_record",
        "evaluation/report_record",
        "json_values",
        "errors",
        "schema",
    ),
    # One suite over a disk and S3 over HTTP: what holds for one has to hold for the other.
    "unit/test_storage.py": ("storage/local", "storage/s3", "storage/s3_client", "storage/s3_file"),
    "unit/test_config.py": ("sections",),
    # One suite over all archives, whatever their layout.
    "unit/data/test_foreign_formats.py": ("data/open_archive",),
    "tagging/test_layouts.py": ("data/tagged_archive",),
    # One suite over encoders and backends: their features have to agree.
    "unit/encoders/test_encoders.py": (
        *("encoders/backbone", "encoders/description", "encoders/huggingface", "encoders/image", "encoders/onnx"),
        *("encoders/packaged", "encoders/text", "encoders/text_onnx", "encoders/trained"),
    ),
    # One suite over every family of the registry, which these have nothing beside.
    "models/test_every_family.py": (
        *("models/base", "models/lstm_cnn", "models/nic", "models/post_vectors", "models/resnet_multilabel"),
        "models/registry",
        "models/vgg_object_scene",
    ),
    "models/test_regression_kriging.py": ("models/regression_kriging_fit",),
    "models/test_design.py": ("recommend/explanations",),
    # Judging as a whole, on a real dataset.
    "distributed/test_evaluate.py": (
        *("evaluation/ground_truth", "judging/report", "judging/page", "judging/validation"),
        *("judging/check", "judging/log_evaluation"),
    ),
    "unit/judging/test_rank_split.py": ("judging/ranked_split",),
    "unit/training/test_loop.py": ("training/ranks",),
    "distributed/test_leaderboard.py": ("leaderboard/gallery", "leaderboard/report"),
    # A page is looked at in a browser.
    "browser/test_report_page.py": ("evaluation/report_page",),
    # A job on Ray is tried as a whole: its parts wait for each other.
    "distributed/test_train.py": (
        *("judging/finish_training", "distributed/train_resources", "judging/find_thresholds"),
        *("distributed/train_worker", "training/plan"),
    ),
    "distributed/test_train_check.py": ("training/check",),
    "distributed/test_promote.py": ("distributed/promote_figures",),
    "distributed/test_shadow.py": ("promotion/shadow",),
    "distributed/test_features.py": ("encoders/encode_chunk",),
    "distributed/test_tag.py": ("distributed/tag_actors",),
    "distributed/test_prepare.py": ("preparation/part_work", "preparation/plan"),
    "distributed/test_prepare_accounting.py": ("preparation/convert", "preparation/report"),
    "unit/test_terminal.py": ("distributed/quiet",),
    "unit/test_surroundings.py": ("distributed/session",),
    # A run and its table as a whole: what one commit does shows in the next.
    "tagging/test_run.py": ("tagging/execute", "tagging/chunk_posts", "tagging/plan", "tagging/planned_work"),
    "tagging/test_extra_tags.py": ("recommend/extra_tags",),
    "tagging/test_joint_run.py": ("tagging/tag_jointly",),
    "tagging/test_yielding.py": ("tagging/after_commit",),
    "tagging/test_other_writers.py": ("output/sweep",),
    "tagging/test_migrate.py": ("output/migrate_part", "output/old_layout"),
    "tagging/test_verify.py": ("output/verify_archive",),
    "distributed/test_tag_history.py": ("tagging/archive_columns", "tagging/encode_histories", "tagging/histories"),
    "distributed/test_tag_killers.py": ("tagging/isolate_child",),
    # What is in MLflow afterwards, by a real store.
    "unit/tracking/test_registry.py": ("tracking/mlflow_model", "tracking/versions"),
    "unit/tracking/test_provenance.py": ("tracking/splits",),
    "tagging/test_report.py": ("tracking/tagging",),
    "tagging/test_forget_training.py": ("tracking/trained_on",),
}
"""Modules without a test file of their own name: which file tries them, and why there. A module within a package of a room is tried
by the package's name too (`test_formats.py`)."""

LARGEST_SHARE = 0.2
MOST_OPEN_TYPES = 4
"""Types that are a `dict[str, Any]`: what is ours has typed keys."""
MOST_LINES_ON_RAY = 3_000


def rooms(repository: Path) -> dict[str, int]:
    """Lines of code by folder of the package."""
    package = repository / "hashtag_core"
    return {
        folder.name: sum(len(file.read_text(encoding="utf-8").splitlines()) for file in folder.rglob("*.py"))
        for folder in package.iterdir()
        if (folder / "__init__.py").exists()
    }


def test_contributing_names_every_room(repository: Path) -> None:
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = re.search(r"```\njobs/ .*?```", text, re.DOTALL)
    assert tree is not None
    told = set(re.findall(r"^  (\w+)/", tree[0], re.MULTILINE))
    assert told == set(rooms(repository))


def test_import_linter_knows_every_room_and_contributing_shows_its_layers(repository: Path) -> None:
    contracts = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(item["layers"] for item in contracts["contracts"] if item["type"] == "layers")
    named = [re.findall(r"hashtag_core\.(\w+)", layer) for layer in layers]
    assert set(rooms(repository)) <= {name for layer in named for name in layer}
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = [re.findall(r"\w+", line) for line in re.findall(r"^ *└─ (.*)$", text, re.MULTILINE)]
    assert shown == [layer for layer in named if layer]


def test_no_room_is_too_large(repository: Path) -> None:
    lines = rooms(repository)
    large = {name: count for name, count in lines.items() if count > LARGEST_SHARE * sum(lines.values())}
    assert not large
    assert lines["distributed"] <= MOST_LINES_ON_RAY


def test_every_module_has_a_test_file_of_its_name(repository: Path) -> None:
    package, tests = repository / "hashtag_core", repository / "tests"
    modules = {file.relative_to(package).with_suffix("") for file in package.rglob("*.py") if file.stem != "__init__"}
    files = {file.relative_to(tests).with_suffix("").as_posix() for file in tests.rglob("test_*.py")}

    def places(module: Path) -> set[str]:
        """Where its test may be: by its own name or its package's within the room, in a folder of the room or beside them."""
        room, *packages, name = ("", *module.parts) if len(module.parts) == 1 else module.parts
        folders = [f"unit/{room}".rstrip("/"), room, *(["tagging"] if room == "output" else [])]
        own = {f"{folder}/test_{part}" for folder in folders for part in (name, *packages)}
        return own | {f"unit/test_{room}_{name}"}

    alone = {module.as_posix() for module in modules if files.isdisjoint(places(module))}
    together = [module for several in TESTED_TOGETHER.values() for module in several]
    assert sorted(alone) == sorted(together)
    assert [file for file in TESTED_TOGETHER if file is not None and not (tests / file).is_file()] == []


def test_an_object_without_keys_of_ours_is_a_type_with_a_reason(repository: Path) -> None:
    found = []
    for file in (repository / "hashtag_core").rglob("*.py"):
        lines = file.read_text(encoding="utf-8").splitlines()
        found += [(line, after) for line, after in pairwise([*lines, ""]) if "dict[str, Any]" in line]
    assert len(found) <= MOST_OPEN_TYPES
    assert [line for line, after in found if not (line.endswith(" = dict[str, Any]") and after.startswith('"""'))] == []
