"""Who may import whom, read from the sources; and what must start without torch, seen in a fresh process."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import finished

from lpobench import registry

ROOT = Path(__file__).parent.parent
PLUGINS = ("backbones", "rewards", "methods", "evaluators")
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "pandas", "scipy", "numpy"}

CONFIG = {"plugin", "problems", "registry", "slots", "sections", "draft", "checkpoints", "spec"}
TOOLS = {"plugin", "signals", "lock", "progress", "launch", "hashing"}
ALLOWED = {
    "plugin": set(),
    "problems": {"plugin"},
    "registry": {"plugin", "problems"},
    "slots": {"plugin", "problems", "registry"},
    "sections": {"plugin"},
    "draft": {"plugin", "problems", "registry", "slots"},
    "checkpoints": {"plugin", "problems", "slots", "data"},
    "spec": CONFIG | {"data"},
    "launch": {"plugin"},
    "signals": {"plugin", "launch"},
    "lock": {"plugin"},
    "progress": set(),
    "hashing": set(),
    "weights": {"plugin"},
    "types": {"plugin"},
    "sampling": {"plugin", "spec", "types", "launch"},
    "learning": {"spec", "types", "sampling"} | TOOLS,
    "data": {"types", "sampling", "learning", "problems"} | TOOLS,
    "records": {"plugin", "hashing"},
    "report": {"plugin", "records"},
    "scoring": {"spec", "types", "sampling", "data", "records", "problems"} | TOOLS,
}
"""Module or package of the engine -> what else of the engine it may import."""
RUN = {"run", "prepare", "conclude", "curate", "appraise", "foresee", "evaluation"}
ALLOWED |= dict.fromkeys(RUN, RUN | ALLOWED.keys())
ALLOWED["timing"] = {
    "plugin",
    "problems",
    "data",
    "scoring",
    "prepare",
    "conclude",
    "slots",
    "spec",
    "types",
    "sampling",
    "learning",
    "records",
    "launch",
}
ALLOWED["ablation"] = CONFIG | {"records", "launch", "lock", "signals"}
ALLOWED["__main__"] = {"cli", "launch"}
ALLOWED["cli"] = CONFIG | {
    "run",
    "curate",
    "appraise",
    "foresee",
    "evaluation",
    "records",
    "report",
    "launch",
    "data",
    "lock",
    "timing",
    "ablation",
}
FOR_PLUGINS = {
    "plugin",
    "problems",
    "slots",
    "types",
    "spec",
    "registry",
    "sampling",
    "learning",
    "data",
    "launch",
    "scoring",
    "progress",
    "weights",
}
LEARNING_FOR_PLUGINS = {"rows", "preference", "objectives"}
SCORING_FOR_PLUGINS = {"worker"}


def sources(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py*") if path.suffix in (".py", ".pyi"))


def imports(tree: ast.AST, *, functions: bool = True) -> Iterator[str]:
    """Dotted names a module imports when it runs: not under TYPE_CHECKING, nor in functions if so asked."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or node.module, "relative imports of nothing"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(ast.Module([other], []), functions=functions)
        elif functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, functions=functions)


def imports_of(path: Path, *, functions: bool = True) -> list[str]:
    return list(imports(ast.parse(path.read_text(encoding="utf-8")), functions=functions))


def layer(path: Path) -> str:
    return path.relative_to(ROOT / "lpobench").parts[0].removesuffix(".py")


ENGINE = [path for path in sources("lpobench") if layer(path) not in ("__init__", "recipes")]


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", ENGINE, ids=names(ENGINE))
def test_the_engine_keeps_its_layers(path):
    own, found = layer(path), imports_of(path)
    engine = {name.split(".")[1] for name in found if name.startswith("lpobench.")} - {own, "__version__"}
    assert engine <= ALLOWED[own], f"{own} may not import {sorted(engine - ALLOWED[own])}"
    assert not {name.split(".")[0] for name in found} & set(PLUGINS), "the engine names no plug-in package"


@pytest.mark.parametrize("package", PLUGINS)
def test_plugins_import_the_contracts_and_never_each_other(package):
    for path in sources(package):
        found = imports_of(path)
        others = {name.split(".")[0] for name in found} & set(PLUGINS) - {package}
        assert not others, f"{path.name} imports {sorted(others)}"
        engine = [name.split(".") for name in found if name.startswith("lpobench.")]
        wrong = {parts[1] for parts in engine if parts[1:3] != ["scoring", "worker"]} - FOR_PLUGINS
        assert not wrong, f"{path.name} may not import lpobench.{sorted(wrong)}"
        scoring = {parts[2] for parts in engine if parts[1] == "scoring"}
        assert scoring <= SCORING_FOR_PLUGINS, f"{path.name} may not import lpobench.scoring.{scoring}"
        inside = {parts[2] for parts in engine if parts[1] == "learning" and len(parts) > 2}
        inside &= {path.stem for path in sources("lpobench/learning")}
        assert inside <= LEARNING_FOR_PLUGINS, f"{path.name} imports the training loop"


LIGHT = sources("lpobench/records") + sources("lpobench/report") + sources("lpobench/cli")
LIGHT += [path for path in ENGINE if layer(path) in CONFIG]


@pytest.mark.parametrize("path", LIGHT, ids=names(LIGHT))
def test_records_report_config_and_cli_import_no_torch(path):
    anywhere = {name.split(".")[0] for name in imports_of(path)}
    allowed = {"torch"} if path.name == "doctor.py" else set()  # it asks torch for the devices
    assert not anywhere & {"torch", "diffusers", "transformers", "peft", "accelerate"} - allowed
    if layer(path) in CONFIG | {"cli"}:
        assert not {name.split(".")[0] for name in imports_of(path, functions=False)} & HEAVY


ENTRY_POINTS = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), ENTRY_POINTS)
def test_entry_point_modules_import_nothing_heavy(kind, name):
    module = ROOT / registry.table(kind)[name].module.replace(".", "/")
    path = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    heavy = {name.split(".")[0] for name in imports_of(path, functions=False)} & HEAVY
    assert not heavy, f"{path.name} imports {sorted(heavy)} before anybody asked"


def loaded_by(statements: str) -> set[str]:
    """The heavy packages a fresh Python has imported after some statements."""
    script = f"import sys\n{statements}\nprint('', *sys.modules, sep='\\n', file=sys.stderr)"
    done = finished(["-c", script])
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()) & HEAVY


def test_reading_verbs_start_without_torch():
    verbs = ["--help"], ["run", "--help"], ["list"], ["show", "lpo"], ["show", "tiny-sd15-lpo"]
    verbs += (["validate", "tiny-sd15-lpo"], ["run", "--dry-run"], ["--version"], ["report", "--help"])
    verbs += (["download", "sd15", "--dry-run"], ["published"], ["published", "timing"], ["runs", "--help"])
    calls = "\n".join(f"assert main({words!r}) == 0, {words!r}" for words in verbs)
    assert loaded_by(f"from lpobench.cli import main\n{calls}") == set()


def test_every_plugin_is_listed_without_torch():
    code = "for kind in registry.KINDS:\n for name in registry.names(kind): registry.get(kind, name)()"
    assert loaded_by(f"from lpobench import registry\n{code}") == set()


def test_records_and_tables_are_read_without_torch():
    modules = ", ".join(f"lpobench.{name}" for name in ("records.stats", "report.tables", "report.figures"))
    assert loaded_by(f"import {modules}") <= {"numpy", "pandas", "scipy"}


def test_the_reader_of_imports_sees_what_runs():
    code = """
import a.b
from c import d
if TYPE_CHECKING:
    import e
else:
    import f
class G:
    def h(self):
        from i import j
"""
    assert list(imports(ast.parse(code))) == ["a.b", "c.d", "f", "i.j"]
    assert list(imports(ast.parse(code), functions=False)) == ["a.b", "c.d", "f"]
