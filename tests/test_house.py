"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("train", "prune", "eval", "benchmark", "finetune_batch")

# The floors of the house, from the ground up: the packages and modules of `bench`. A room imports from itself and from
# the floors below it, so that data flows down the stages and never back. A new module needs no entry, a new room does.
FLOORS = (
    "errors rounding",
    "config torch_utils",
    "system channels",
    "datasets models launchers",
    "data metrics",
    "measure",
    "plan training",
    "cut layers",
    "recover",
    "train_eval",
    "pruners",
    "engine report cli export",
    "oracle leaderboard",
    "jobs",
    "sweep",
    "specialists",
    "commands compare predict",
)
MOST_MODULES, MOST_LINES = 18, 400


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "bench").rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def room_of(module: str) -> str:
    return module.split(".")[1]


def is_entry(module: str) -> bool:
    """Whether `python -m` begins here: like a script it stands above the house, whatever room it is named after."""
    return module.endswith(".__main__")


def floor_of(module: str) -> int:
    if is_entry(module):
        return len(FLOORS)
    floors = [floor for floor, rooms in enumerate(FLOORS) if room_of(module) in rooms.split()]
    assert len(floors) == 1, f"bench/{room_of(module)} has no floor of its own in tests/test_house.py"
    return floors[0]


def without_typing_only(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`, which import nothing when the program runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from without_typing_only(node)


def imported(tree: ast.AST) -> set[str]:
    """The modules of the project a module imports, at its top or inside its functions."""
    found = set()
    for node in without_typing_only(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (members & MODULES.keys()) or {node.module}
    return {name for name in found if name.split(".")[0] == "bench"}


def script_code(command: str) -> list[str]:
    """All that a script has to say."""
    return [
        "from __future__ import annotations",
        "from bench.cli.entry import run",
        f"from bench.commands.{command} import main",
        "if __name__ == '__main__':\n    run(main)",
    ]


IMPORTS = {name: imported(tree) - {name} for name, tree in TREES.items()}


def test_every_room_of_the_table_exists():
    rooms = [room for rooms in FLOORS for room in rooms.split()]
    assert sorted(rooms) == sorted({room_of(module) for module in MODULES if module != "bench"})


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"bench"}))
def test_a_room_imports_only_from_below(module):
    others = {name for name in IMPORTS[module] - {"bench"} if room_of(name) != room_of(module)}
    assert [name for name in sorted(others) if floor_of(name) >= floor_of(module)] == []


def test_an_entry_only_runs_a_command():
    entries = [module for module in MODULES if is_entry(module)]
    assert [name for name, others in IMPORTS.items() if others & set(entries)] == []
    for module in entries:
        command = module.split(".")[-2]
        code = [ast.unparse(node) for node in TREES[module].body[1:]]
        assert code == script_code(command)


def test_no_imports_in_circles():
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in finished:
            for name in sorted(IMPORTS[module]):
                visit(name, (*path, module))
            finished.add(module)

    for module in MODULES:
        visit(module, ())
    assert finished == MODULES.keys()


def test_rooms_are_small_enough_to_look_around_in():
    folders = {path.parent for path in MODULES.values()}
    assert [str(f) for f in folders if len([p for p in f.glob("*.py") if p.stem != "__init__"]) > MOST_MODULES] == []
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_tests_mirror_the_rooms():
    rooms = {room for rooms in FLOORS for room in rooms.split()}
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py") if path.parent != ROOT / "tests"}
    assert folders <= rooms


def test_torch_pruning_is_an_oracle_of_tests_alone():
    found = [
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(alias.name.startswith("torch_pruning") for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module.startswith("torch_pruning"))
    ]
    assert found == []


def test_hooks_are_registered_where_they_are_taken_away_again():
    names = {"register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"}
    found = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in names
    }
    assert found == {"bench.torch_utils.hooks"}


def test_the_library_does_not_import_a_script():
    for module, tree in TREES.items():
        roots = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        roots |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not roots & set(SCRIPTS), module


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_only_runs_its_command(script):
    code = [ast.unparse(node) for node in ast.parse((ROOT / f"{script}.py").read_text(encoding="utf-8")).body[1:]]
    assert code == script_code(script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_command_stays_thin(script):
    tree = TREES[f"bench.commands.{script}"]
    assert len(MODULES[f"bench.commands.{script}"].read_text(encoding="utf-8").splitlines()) < 120
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert functions == ["build_parser", "main"]


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(("bench.commands.", "bench.compare"))])
def test_a_command_imports_heavy_rooms_only_after_parsing(module):
    light = {"__future__", "pathlib", "typing", "bench.system.console", "bench.errors", "bench.config.values"}
    light |= {name for name in MODULES if room_of(f"{name}.") in ("cli", "commands") or name.endswith(".options")}
    assert {node.module for node in TREES[module].body if isinstance(node, ast.ImportFrom)} <= light


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def test_only_the_command_line_prints():
    assert [module for module, tree in TREES.items() if calls(tree, "print")] == ["bench.cli.entry"]


@pytest.mark.parametrize("name", ["torch.save", "torch.load"])
def test_files_of_tensors_pass_through_one_place(name):
    assert [module for module, tree in TREES.items() if calls(tree, name)] == ["bench.models.state_dict_file"]


def test_loader_processes_pass_through_one_place():
    found = [module for module, tree in TREES.items() if calls(tree, "data.DataLoader") or calls(tree, "DataLoader")]
    assert found == ["bench.datasets.loaders"]


def test_nothing_sets_an_environment_variable():
    for module, tree in TREES.items():
        targets = [
            ast.unparse(target)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AugAssign | ast.Delete)
            for target in (node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target])
        ]
        assert not [target for target in targets if target.startswith(("os.environ", "environ"))], module
        for name in ("putenv", "unsetenv", "environ.update", "environ.setdefault", "environ.pop"):
            assert not calls(tree, f"os.{name}"), module


def test_no_global_state_and_no_swallowed_errors():
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Global), f"{module}: global in line {node.lineno}"
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{module}: bare except in line {node.lineno}"
                is_silent = all(isinstance(statement, ast.Pass) for statement in node.body)
                assert not is_silent, f"{module}: silent except in line {node.lineno}"


def has_docstring(owner: object, name: str) -> bool:
    # A method may inherit the docstring of the one it overrides.
    return bool(inspect.getdoc(getattr(owner, name)))


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_has_a_docstring(name):
    module = importlib.import_module(name)
    assert module.__doc__
    missing = []
    for node in TREES[name].body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not has_docstring(module, node.name):
            missing.append(node.name)
        owner = getattr(module, node.name)
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            is_public = isinstance(member, ast.FunctionDef) and not member.name.startswith("_")
            if is_public and not has_docstring(owner, member.name):
                missing.append(f"{node.name}.{member.name}")
    assert missing == []


def test_every_method_has_a_readme():
    folders = [path for path in (ROOT / "bench" / "pruners").iterdir() if (path / "__init__.py").is_file()]
    assert folders
    assert [folder.name for folder in folders if not (folder / "README.md").is_file()] == []


@pytest.mark.parametrize("module", MODULES)
def test_annotations_are_not_evaluated(module):
    # Python 3.10 and 3.13 read the same annotations then.
    body = TREES[module].body
    has_code = any(not isinstance(node, ast.Expr | ast.Assign) for node in body)
    lines = [ast.unparse(node) for node in body]
    assert not has_code or "from __future__ import annotations" in lines
