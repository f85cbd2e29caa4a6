"""Python script: a configuration as a training script that does not need hpo, with a JSON file of its values.

The script is `python_script_template.py` with the code that it uses from other modules inlined. Functions, classes and
constants are copied from their source, so that each rule is written once. Methods that are never named are left out,
and all entries of a registry (a dict literal) except the chosen one. A definition in the template replaces those of the
same name in other modules.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from itertools import compress, groupby
from pathlib import Path
from typing import Any

from hpo.export.exported_file import Exported, only, own_head, refuse_inexpressible

MARK = '"""Trains one configuration that a search by hpo found'
"""Start of every script."""
NEEDED = ("torch", "transformers", "numpy")
OF_OPTIMIZERS = {"lion": "lion-pytorch", "schedule_free_adamw": "schedulefree"}
"""Optimizer -> its package, if that is not torch."""
FIELDS = {
    "token_masking": only(0.0, "token_masking", "0, or a mask drawn in `steps_of`"),
    "word_swap": only(0.0, "word_swap", "0, or augmented texts of one's own"),
}
"""Hyperparameter -> rule, for those that the script does not support at every value."""
IS_FILE = re.compile(r"(?!.*://)[^*?\[]*\.(csv|jsonl|ndjson)")
PLAIN = ("hpo.config.hyperparameters", "hpo.config.study_file", "hpo.config.tasks", "hpo.export.exported_file")
"""Modules whose classes become plain namespaces, with values from the JSON file."""


def script(exported: Exported) -> str:
    """Return the script for a configuration."""
    h, task = exported.hyperparameters, exported.task.name
    chosen: dict[str, str] = {"METHODS": h.method, "OPTIMIZERS": h.optimizer, "SCHEDULES": h.schedule}
    chosen |= {"TARGET_TYPES": task, "TASKS": task}
    return inlined("hpo.export.python_script_template", chosen)


def content_of_script(exported: Exported) -> dict[str, Any]:
    """Return the values that the script reads: the whole configuration.

    Raises:
        ConfigurationError: lists the settings that the script cannot express.
    """
    sources = ((f"data.{name}", getattr(exported.data, name)) for name in ("train", "validation", "test"))
    beside = [
        (f"{key} {name}", "one .csv or .jsonl file") for key, name in sources if name and not IS_FILE.fullmatch(name)
    ]
    loaded = exported.model.model_dump(include={"gguf_file", "quantization", "dtype"})
    beside += [
        (f"model.{name} {value}", "the model as save_pretrained writes it, in fp32")
        for name, value in loaded.items()
        if value not in (None, "auto", "fp32")
    ]
    beside += own_head(exported)
    if exported.hyperparameters.method == "lora":
        beside = [("method lora", "--format peft")]
    refuse_inexpressible("The script", FIELDS, exported, beside)
    content = exported.model_dump(mode="json")
    return content | {"evaluation": content["evaluation"] | {"rung_rows": exported.evaluation.part_rows}}


def needed(exported: Exported) -> str:
    """Return the packages that a script needs, in the versions of the search."""
    optimizer = exported.hyperparameters.optimizer
    packages = [*NEEDED, *([OF_OPTIMIZERS[optimizer]] if optimizer in OF_OPTIMIZERS else [])]
    return ", ".join(f"{name} {exported.versions.get(name, '')}".strip() for name in packages)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Source of a module."""

    text: str
    body: list[ast.stmt]
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    """Name -> statements of its definition: the definition, and its docstring."""
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Imported name -> (module, name there)."""


@cache
def _source(module: str) -> _Source:
    spec = find_spec(module)
    assert spec is not None, module
    text = Path(str(spec.origin)).read_text(encoding="utf-8")
    found = _Source(text=text, body=ast.parse(text).body)
    last: list[ast.stmt] = []
    for statement in found.body:
        match statement:
            case ast.Import(names=names):
                found.imports.update({one.asname or one.name: (one.name, "") for one in names})
            case ast.ImportFrom(module=str(origin), names=names):
                found.imports.update({one.name: (origin, one.name) for one in names})
            case ast.Expr():
                last.append(statement)
            case _:
                last = [statement]
                found.definitions.update(dict.fromkeys(_defined(statement), last))
    return found


def _defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def inlined(program: str, chosen: Mapping[str, str]) -> str:
    """Return a program as one file: docstring, imports, its own code, inlined code of hpo, and its last statement.

    Args:
        program: a module that, like all modules of hpo that it uses, imports names from hpo, not modules.
        chosen: registry -> the entry that is kept.
    """
    attributes: set[str] = set()
    while (walk := _Walk(program, chosen, attributes)).attributes != attributes:
        attributes = walk.attributes
    return walk.text()


class _Walk:
    """Traversal of all definitions that a program uses."""

    def __init__(self, program: str, chosen: Mapping[str, str], attributes: set[str]) -> None:
        """Include methods with these names."""
        self._called, self.attributes = attributes, set(attributes)
        """Names of included methods, and all attribute names found."""
        self._program, self._chosen = program, chosen
        self._owners: dict[str, str] = {}
        """Name -> the module that defines it."""
        self._outside: set[tuple[str, str, str]] = set()
        """(module, name there, name in the file) of imports from other packages."""
        for statement in _source(program).body:
            self._take_names(program, statement)

    def _take(self, module: str, name: str) -> None:
        """Include the definition of a name in a module, and everything that it uses."""
        source = _source(module)
        if name in _source(self._program).definitions and module != self._program:
            return
        if name in source.definitions:
            if name not in self._owners:
                self._owners[name] = module
                for statement in source.definitions[name]:
                    self._take_names(module, statement)
            assert self._owners[name] == module, f"{name} is of {module} and of {self._owners[name]}"
        elif name in source.imports:
            origin, original = source.imports[name]
            if origin.startswith("hpo.") and origin not in PLAIN:
                self._take(origin, original)
            else:
                self._outside.add((origin, original, name))

    def _take_names(self, module: str, statement: ast.stmt) -> None:
        for node in self._used(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self._take(module, node.id)
            elif isinstance(node, ast.Attribute):
                self.attributes.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.attributes.add(node.value)  # It may be asked for by `getattr`.

    def _used(self, node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(self._entry(node) or node):
            if not (isinstance(node, ast.ClassDef) and self._is_idle(node, child)):
                yield child
                yield from self._used(child)

    def _entry(self, node: ast.AST) -> ast.Dict | None:
        """Return the chosen entry of a registry; None if the node is no registry."""
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys, values=values)):
                if name in self._chosen:
                    kept = [key is not None and ast.literal_eval(key) == self._chosen[name] for key in keys]
                    return ast.Dict(keys=[*compress(keys, kept)], values=[*compress(values, kept)])
        return None

    def _is_idle(self, owner: ast.ClassDef, member: ast.AST) -> bool:
        """Return true if a member of a class is left out because nothing names it."""
        match member:
            case ast.FunctionDef(name=name):
                return not (owner.bases or name.startswith("__") or name in self._called)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Subscript(value=ast.Name(id="ClassVar"))):
                return not (owner.bases or name in self._called)
        return False

    def text(self) -> str:
        """Return the file."""
        own = _source(self._program)
        docstring, *others, end = own.body
        first = next(one for one in others if not isinstance(one, ast.Import | ast.ImportFrom))
        head = [_lines(own, docstring, docstring), "from __future__ import annotations", *self._imports()]
        parts = ["\n\n".join(head), _lines(own, first, others[-1])]
        for module in self._in_order():
            source = _source(module)
            mine = [source.definitions[name] for name, owner in self._owners.items() if owner == module]
            parts.append("# " + source.text.partition("\n")[0].strip('"'))
            parts += [self._written(source, one) for one in source.definitions.values() if one in mine]
        return "\n\n\n".join([*dict.fromkeys(parts), _lines(own, end, end)]) + "\n"

    def _imports(self) -> Iterator[str]:
        """Yield the imports in isort's order, the standard library first, and the namespaces."""
        plain = sorted(name for module, name, _ in self._outside if module in PLAIN)
        imported = sorted(one for one in self._outside if one[0] not in PLAIN)
        for is_standard in (True, False):
            found = [one for one in imported if (one[0].split(".")[0] in sys.stdlib_module_names) is is_standard]
            lines = [
                f"import {one}" if one == own else f"import {one} as {own}" for one, name, own in found if not name
            ]
            for module, names in groupby((one for one in found if one[1]), key=lambda one: one[0]):
                # Constants, classes, the rest.
                ranked = sorted((not name.isupper(), not name[0].isupper(), name) for _, name, _ in names)
                lines.append(f"from {module} import {', '.join(name for *_, name in ranked)}")
            yield "\n".join(lines)
        yield "# What these hold stands in the JSON file.\n" + " = ".join([*plain, "SimpleNamespace"])

    def _in_order(self) -> list[str]:
        """Return the modules with included definitions, each after those that it imports from."""
        ordered: dict[str, None] = {}

        def put(module: str) -> None:
            for origin, _ in _source(module).imports.values():
                if origin in self._owners.values() and origin not in ordered:
                    put(origin)
            ordered[module] = None

        put(self._program)
        return [*ordered][:-1]

    def _written(self, source: _Source, definition: Sequence[ast.stmt]) -> str:
        """Return the source of a definition without left-out members."""
        first, last = definition[0], definition[-1]
        if (entry := self._entry(first)) is not None:
            key, value = (ast.get_source_segment(source.text, one) for one in (*entry.keys, *entry.values) if one)
            return f"{_defined(first)[0]} = {{\n    {key}: {value},\n}}"
        text = _lines(source, first, last)
        if isinstance(first, ast.ClassDef):
            for member, behind in zip(first.body, [*first.body[1:], first], strict=True):
                if self._is_idle(first, member):
                    idle = _lines(source, member, behind if isinstance(behind, ast.Expr) else member)
                    text = text.replace(f"{idle}\n", "").removesuffix(idle)
        # Annotations are no longer evaluated, and who reads the file may have other rules than hpo.
        text = re.sub(r'-> "(\w+)":', r"-> \1:", re.sub("  # noqa.*", "", text))
        return re.sub("\n\n\n+", "\n\n", text).rstrip()


def _lines(source: _Source, first: ast.stmt, last: ast.stmt) -> str:
    """Return the lines from one statement, with its decorators and the comment above it, to another."""
    lines = source.text.splitlines()
    begin = min(one.lineno for one in (first, *getattr(first, "decorator_list", ()))) - 1
    while lines[begin - 1].startswith("#"):
        begin -= 1
    return "\n".join(lines[begin : last.end_lineno])
