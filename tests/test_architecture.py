"""The shape of the code: who may import whom, where a method may be named, no file name twice."""

import ast
from pathlib import Path

import pytest

import tablefold
from tablefold import all_methods

SOURCE = Path(tablefold.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

CORE = {"extras", "fields", "tables", "hashing", "partitions", "starts", "terms", "spec"}
ALLOWED = {
    "tables": {"fields", "quoting"},
    "fields": {"quoting"},
    "hashing": set(),
    "starts": set(),
    "spec": set(),
    "files": set(),
    "json_files": {"quoting"},
    "locks": {"quoting"},
    "extras": set(),
    "panics": set(),
    "processes": set(),
    "quoting": set(),
    "clustering": set(),
    "compilation": {"compilation"},
    "registry": {"quoting"},
    "formats": {"formats", "registry"},
    "partitions": {"hashing"},
    "terms": {"formats", "hashing", "partitions", "starts", "tables"},
    "ops": {"compilation", "formats", "hashing", "partitions", "tables", "terms", "ops"},
    "group": CORE | {"formats", "ops"},
    "growth": {"formats", "partitions", "quoting", "tables", "terms"},
    "method": CORE | {"formats", "registry", "group"},
    "methods": CORE | {"clustering", "formats", "json_files", "method", "methods", "ops", "panics", "quoting"},
    "text_tables": {"quoting"},
    "plans": {
        *(
            "fields",
            "formats",
            "group",
            "growth",
            "json_files",
            "method",
            "methods",
            "partitions",
            "quoting",
            "tables",
            "terms",
        ),
        *("text_tables", "theory"),
    },
    "nn": {"fields", "formats", "group", "method", "ops", "plans", "spec", "starts", "tables"},
    "folding": {
        *(
            "clustering",
            "files",
            "folding",
            "formats",
            "group",
            "hashing",
            "json_files",
            "method",
            "methods",
            "nn",
            "ops",
        ),
        *("partitions", "plans", "quoting", "registry", "spec", "starts", "tables", "text_tables"),
    },
    "optim": {"ops"},
    "ahead": {"compilation", "data", "extras", "ops"},
    "theory": CORE | {"group", "method", "theory"},
    "exporting": {
        *(
            "data",
            "exporting",
            "extras",
            "fields",
            "files",
            "formats",
            "group",
            "json_files",
            "models",
            "ops",
            "quoting",
        ),
        *("registry", "spec", "tables", "train"),
    },
    "models": {"group", "method", "models", "quoting", "registry", "spec", "tables"},
    "data": {
        *("compilation", "data", "extras", "fields", "files", "hashing", "json_files", "locks", "panics", "processes"),
        *("quoting", "tables"),
    },
    "train": {
        *(
            "data",
            "fields",
            "files",
            "folding",
            "formats",
            "group",
            "growth",
            "hashing",
            "json_files",
            "locks",
            "method",
            "methods",
        ),
        *("models", "optim", "plans", "processes", "quoting", "tables", "terms", "train"),
    },
    "serving": {"data", "extras", "files", "json_files", "models", "processes", "quoting", "serving", "train"},
    "ranking": {"data", "files", "quoting", "ranking", "tables", "train"},
    "click_model": {"data", "files", "panics", "quoting", "serving", "train"},
}


def owner(path: Path) -> str:
    """The module of tablefold a file belongs to: a file at the top or a package."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The modules of tablefold that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "tablefold":
                names = [f"tablefold.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("tablefold.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_what_lies_below_it(path):
    if owner(path) in ALLOWED:
        assert imports(path) <= ALLOWED[owner(path)]


def test_no_file_name_occurs_twice():
    names = [path.name for path in FILES if not path.name.startswith("__")]
    assert sorted(names) == sorted(set(names))


def test_layers_are_named_as_they_are():
    packages = {owner(path) for path in FILES} - {"__init__", "__main__", "cli", "study"}
    assert packages <= set(ALLOWED), "a new module needs its place among the layers"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_method_is_named_above_the_methods(path):
    if owner(path) in {"methods", "__init__", "cli", "study"}:  # demos and studies hold spec strings as data
        return
    classes = {kind.__name__ for kind in all_methods().values()} - {"Full"}  # plans keep small tables full
    used = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    assert not used & classes


def test_public_names_are_found_and_others_are_not():
    for name in tablefold.__all__:
        assert getattr(tablefold, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Robee'"):
        _ = tablefold.Robee
