"""Wrong equations that a family's tests must catch: `make mutants`, or `python tests/mutants/run.py [FAMILY ...] [--automatic]`.

`mutants.toml` lists edits of the source, each a slip that a reader of the article might make. Each is put into a copy of the
package, and the family's tests are run there: a mutant that passes them is a survivor, and a survivor is a hole in the tests.
`--automatic` makes edits of its own instead (an operator turned, an activation left out, another axis, a number changed) for
every line of the families' files. Some of those change nothing that a model computes; the list says which they are by what
is left over, and a person looks at them.

The last line counts; exit code 1 where one survived or where an edit no longer fits the source.
"""

import argparse
import ast
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120


@dataclass(frozen=True)
class Mutant:
    family: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    place: int = -1
    """Where in the file, for an edit that is no text that stands there once."""

    def apply(self, source: str) -> str | None:
        """The edited source; None where it does not fit."""
        if self.place >= 0:
            return source[: self.place] + self.new + source[self.place + len(self.old) :]
        return source.replace(self.old, self.new) if source.count(self.old) == 1 else None


def listed(path: Path, families: list[str]) -> list[Mutant]:
    """The mutants of the file, of those families or of all."""
    found = []
    for family, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if families and family not in families:
            continue
        for edit in table["edits"]:
            what, old, new, *file = edit
            where = file[0] if file else table["file"]
            found.append(Mutant(family, what, where, old, new, tuple(table["tests"])))
    return found


def automatic(path: Path, families: list[str]) -> list[Mutant]:
    """An edit of every operator, activation, axis and number in the files of those families."""
    found: list[Mutant] = []
    for family, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if families and family not in families:
            continue
        source = (ROOT / table["file"]).read_text(encoding="utf-8")
        for node, old, new in _edits(source):
            what = f"line {node.lineno}: {old} -> {new}"
            place = _offset(source, node.lineno, node.col_offset)
            old_text = ast.get_source_segment(source, node) or ""
            found.append(Mutant(family, what, table["file"], old_text, new, tuple(table["tests"]), place))
    return found


OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.BitAnd: "|", ast.BitOr: "&"}
COMPARED = {ast.Gt: "<=", ast.GtE: "<", ast.Lt: ">=", ast.LtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
INTO = {
    "mean": "sum",
    "sum": "mean",
    "amax": "mean",
    "relu": None,
    "tanh": None,
    "sigmoid": None,
    "softmax": "sigmoid",
    "masked_softmax": None,
    "normalize": None,
    "dropout": None,
    "multi_label_loss": "softmax_loss",
    "softmax_loss": "multi_label_loss",
    "square": "abs",
    "log": "exp",
}
"""What a call becomes: another function, or None for its first argument alone."""


NO_EQUATIONS = frozenset(
    (
        "needs",
        "tokenizer",
        "outputs",
        "name_tags",
        "extra_state",
        "load_extra_state",
        "initialise",
        "base_model",
        "on_base",
    )
)
"""Methods that compute nothing of a model."""


def _edits(source: str) -> Iterator[tuple[ast.expr, str, str]]:
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.FunctionDef) and part.name not in NO_EQUATIONS and "validator" not in ast.dump(part):
            for statement in part.body:
                edits = _edits_within(source, statement)
                # What is built there counts (a layer left out), not what it is drawn from.
                yield from (e for e in edits if part.name != "__init__" or isinstance(e[0], ast.Call))


def _edits_within(source: str, statement: ast.stmt) -> Iterator[tuple[ast.expr, str, str]]:
    for node in ast.walk(statement):
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            left, right = (ast.get_source_segment(source, side) for side in (node.left, node.right))
            yield node, ast.unparse(node), f"({left} {OPERATORS[type(node.op)]} {right})"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.USub | ast.Not):
            yield node, ast.unparse(node), f"({ast.get_source_segment(source, node.operand)})"
        elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARED:
            left, right = (ast.get_source_segment(source, side) for side in (node.left, node.comparators[0]))
            yield node, ast.unparse(node), f"({left} {COMPARED[type(node.ops[0])]} {right})"
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield node, ast.unparse(node), repr(node.value + 1)
        elif isinstance(node, ast.Call):
            yield from _calls(source, node)


def _calls(source: str, node: ast.Call) -> Iterator[tuple[ast.expr, str, str]]:
    function = ast.unparse(node.func)
    name = function.rpartition(".")[2]
    inside = ", ".join(ast.get_source_segment(source, part) or "" for part in node.args)
    keywords = ", ".join(f"{k.arg}={ast.get_source_segment(source, k.value)}" for k in node.keywords if k.arg)
    inside = ", ".join(filter(None, [inside, keywords]))
    if name == "where" and len(node.args) == 3:
        first, second, third = (ast.get_source_segment(source, part) for part in node.args)
        yield node, ast.unparse(node), f"{function}({first}, {third}, {second})"
        yield node, ast.unparse(node), f"({second})"
    elif name in INTO and node.args and not isinstance(node.args[0], ast.Constant):
        other = INTO[name]
        first = ast.get_source_segment(source, node.args[0])
        yield node, ast.unparse(node), f"({first})" if other is None else f"{function[: -len(name)]}{other}({inside})"
    elif name in ("mean", "sum", "amax", "relu") and isinstance(node.func, ast.Attribute):
        owner = ast.get_source_segment(source, node.func.value)
        new = f"{owner}" if name == "relu" else f"{owner}.{INTO[name]}({inside})"
        yield node, ast.unparse(node), new
    elif name in ("ReLU", "Tanh", "GELU", "LeakyReLU", "LayerNorm", "RowNorm", "BatchNorm1d", "Dropout"):
        yield node, ast.unparse(node), "nn.Identity()"


def _offset(source: str, line: int, column: int) -> int:
    lines = source.splitlines(keepends=True)
    return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())


def try_mutant(mutant: Mutant, copy: Path) -> str:
    """`caught`, `survived`, or `does not fit`."""
    file = copy / mutant.file
    source = file.read_text(encoding="utf-8")
    edited = mutant.apply(source)
    if edited is None:
        return "does not fit"
    file.write_text(edited, encoding="utf-8")
    try:
        process = multiprocessing.get_context("fork").Process(target=_run_tests, args=(copy, mutant.tests))
        process.start()
        process.join(LIMIT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
        return "survived" if process.exitcode == 0 else "caught"
    finally:
        file.write_text(source, encoding="utf-8")


def _run_tests(copy: Path, tests: tuple[str, ...]) -> None:
    """In a child that has torch already: the tests on the copy."""
    import pytest

    os.chdir(copy)
    sys.path.insert(0, str(copy))
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:warnings", *tests])
    os._exit(int(code))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="of mutants.toml; all where none is named")
    parser.add_argument(
        "--automatic", action="store_true", help="edits made from the source instead of the listed ones"
    )
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.dont_write_bytecode = True
    make = automatic if arguments.automatic else listed
    mutants = make(Path(__file__).with_name("mutants.toml"), arguments.families)
    # The children are forks of this process: what it has loaded they need not load.
    import faiss  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pydantic  # noqa: F401
    import pytest  # noqa: F401
    import scipy.special  # noqa: F401
    import sklearn.linear_model
    import sklearn.svm  # noqa: F401
    import tokenizers  # noqa: F401
    import torch
    import transformers.models.lxmert.modeling_lxmert  # noqa: F401

    torch.set_num_threads(1)
    counts = {"caught": 0, "survived": 0, "does not fit": 0}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hashtag-mutants-") as folder:
        copy = Path(folder)
        for name in ("hashtag_core", "tests", "jobs"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.parquet"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for family, tests in {mutant.family: mutant.tests for mutant in mutants}.items():
            none = Mutant(family, "nothing", "pyproject.toml", "", "", tests, place=0)
            if try_mutant(none, copy) != "survived":
                print(f"{family}: {' '.join(tests)} fail without any mutant")
                return 1
        for mutant in mutants:
            result = try_mutant(mutant, copy)
            counts[result] += 1
            if result != "caught":
                print(f"{result}: {mutant.family}: {mutant.what}", flush=True)
    seconds = time.monotonic() - started
    print(f"{', '.join(f'{n} {what}' for what, n in counts.items())} in {seconds:.0f} s")
    return int(counts["caught"] < len(mutants))


if __name__ == "__main__":
    sys.exit(main())
