"""Checks that read the source: nothing is run and torch is not needed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from picojoule.core.errors import ConfigError
from picojoule.lint.findings import Finding, ordered

NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "LazyBatchNorm2d", "SharedBatchNorm")
HOST = ("item", "numpy", "tolist")
LISTS = ("unbind", "split", "chunk", "tolist", "list", "tuple", "ModuleList", "children", "items", "values")
FRESH = ("zeros_", "ones_", "fill_", "uniform_", "normal_", "bernoulli_", "requires_grad_", "copy_")


def check_source(path: Path, text: str | None = None) -> list[Finding]:
    """Findings in every class of the file that has a `forward`, and in the functions of such a class.

    Raises:
        ConfigError: the file cannot be read, or is not Python; names the line.
    """
    if text is None:
        try:
            text = path.read_text("utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: not Python: {error.msg}") from None
    found: list[Finding] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            if any(m.name == "forward" for m in methods):
                norms = _norms(node)
                for method in methods:
                    if method.name != "__init__" and not method.name.startswith("reset"):
                        found += _Method(path, node.name, method, norms).check()
    return ordered(found)


def _norms(cls: ast.ClassDef) -> set[str]:
    """Attributes of self that hold a BatchNorm."""
    found = set()
    for node in ast.walk(cls):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and _name(node.value.func) in NORMS
        ):
            found |= {t.attr for t in node.targets if _is_self(t)}  # type: ignore[attr-defined]
    return found


def _name(node: ast.AST) -> str:
    """Last word of a dotted name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


class _Method:
    """The checks of one method; loops over steps are those whose variable comes from range(...)."""

    def __init__(self, path: Path, cls: str, node: ast.FunctionDef, norms: set[str]) -> None:
        self.path, self.cls, self.node, self.norms = path, cls, node, norms
        self.found: list[Finding] = []
        self.given = {a.arg for a in node.args.args if a.arg != "self"}
        self.lists, self.numbers = _kinds(node)

    def check(self) -> list[Finding]:
        for loop in ast.walk(self.node):
            if isinstance(loop, ast.For | ast.While):
                self._loop(loop)
        self._state()
        for node in ast.walk(self.node):
            self._in_place(node)
            self._cut(node)
            self._steps(node)
        return self.found

    def _add(self, level: str, rule: str, node: ast.AST, message: str) -> None:
        where = f"{self.path}:{getattr(node, 'lineno', self.node.lineno)}"
        self.found.append(Finding(level, rule, where, f"{self.cls}.{self.node.name}: {message}"))

    def _loop(self, loop: ast.For | ast.While) -> None:
        inside = [n for statement in loop.body for n in ast.walk(statement)]
        for node in inside:
            if isinstance(node, ast.Call) and _is_self(node.func) and _name(node.func) in self.norms:
                self._add(
                    "warning",
                    "norm-in-loop",
                    node,
                    f"self.{_name(node.func)} normalises each step with statistics of its own, updates its "
                    "running ones T times a batch",
                )
        if not isinstance(loop, ast.For) or not isinstance(loop.target, ast.Name):
            return
        if not (isinstance(loop.iter, ast.Call) and _name(loop.iter.func) in ("range", "trange")):
            return
        step = loop.target.id
        for node in inside:
            if isinstance(node, ast.Subscript) and _indexes(node.slice, step) and self._tensor(node.value):
                text = ast.unparse(node)
                if isinstance(node.ctx, ast.Load):
                    message = (
                        f"{text} in a loop over {step}: the backward pass of each index fills a gradient of "
                        "all T steps, O(T^2) time and memory traffic"
                    )
                    self._add("warning", "time-index", node, message)
                else:
                    message = (
                        f"{text} = ... in a loop over {step} copies the whole gradient once a step, O(T^2)"
                    )
                    self._add("warning", "time-write", node, message)

    def _tensor(self, node: ast.AST) -> bool:
        """Looks like a tensor: no attribute of self (layers in a list), no list of this method."""
        if isinstance(node, ast.Subscript):
            return self._tensor(node.value)
        return isinstance(node, ast.Name) and node.id not in self.lists

    def _state(self) -> None:
        """Attributes of self that forward writes: they survive the call."""
        stores: dict[str, ast.Attribute] = {}
        loads: dict[str, int] = {}
        for node in ast.walk(self.node):
            if not isinstance(node, ast.Attribute) or not _is_self(node):
                continue
            name, line = node.attr, node.lineno
            if isinstance(node.ctx, ast.Store):
                if name not in stores or line < stores[name].lineno:
                    stores[name] = node
            elif isinstance(node.ctx, ast.Load):
                loads[name] = min(line, loads.get(name, line))
        grown = [n.target for n in ast.walk(self.node) if isinstance(n, ast.AugAssign)]
        changed = {t.attr for t in grown if isinstance(t, ast.Attribute) and _is_self(t)}
        for name, node in stores.items():
            if name in self.numbers and name not in loads and name not in changed:
                continue
            carried = name in changed or loads.get(name, 1 << 30) <= node.lineno
            if carried:
                message = (
                    f"self.{name} is read and written: the next batch starts from the state of this one, a "
                    "second backward meets a graph that is gone"
                )
                self._add("error", "hand-state", node, message)
            else:
                message = (
                    f"self.{name} is written in forward and keeps its graph and memory until the next call"
                )
                self._add("warning", "hand-state", node, message)

    def _in_place(self, node: ast.AST) -> None:
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            if name in self.given:
                self._add(
                    "warning", "in-place", node, f"`{ast.unparse(node)}` changes the caller's tensor {name}"
                )
            elif name not in self.numbers and name not in self.lists:
                self._add("warning", "in-place", node, f"`{ast.unparse(node)}` changes the tensor in place")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            inner = node.func.value
            fresh = isinstance(inner, ast.Call) or name in FRESH
            if name.endswith("_") and not name.startswith("_") and not name.endswith("__") and not fresh:
                self._add(
                    "warning", "in-place", node, f"`.{name}(...)` changes {ast.unparse(inner)} in place"
                )
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                masked = isinstance(target, ast.Subscript) and isinstance(
                    target.slice, ast.Compare | ast.Call
                )
                if masked and self._tensor(target.value):  # type: ignore[union-attr]
                    self._add(
                        "warning", "in-place", node, f"`{ast.unparse(node)}` writes into a tensor by mask"
                    )

    def _cut(self, node: ast.AST) -> None:
        if isinstance(node, ast.Attribute) and node.attr == "data":
            self._add("error", "cut-graph", node, f"`{ast.unparse(node)}` leaves autograd without a trace")
        if not isinstance(node, ast.Call):
            return
        name = _name(node.func)
        if isinstance(node.func, ast.Attribute) and name in HOST and not node.args:
            self._add(
                "warning",
                "host-value",
                node,
                f"`{ast.unparse(node)}` waits for the device and cuts the graph",
            )
        elif isinstance(node.func, ast.Attribute) and name in ("detach", "detach_") and not node.args:
            self._add("note", "cut-graph", node, f"`{ast.unparse(node)}`: no gradient passes here")
        elif name in ("no_grad", "inference_mode"):
            self._add(
                "warning", "cut-graph", node, f"{name} inside a model: the part below it is not trained"
            )

    def _steps(self, node: ast.AST) -> None:
        """T taken from the leading axis of an argument."""
        if (
            isinstance(node, ast.Assign)
            and len(node.targets) == 1
            and _name(node.targets[0]) in ("T", "steps")
        ):
            value = node.value
        elif (
            isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and _name(node.iter.func) == "range"
        ):
            value = node.iter.args[-1]
        else:
            return
        if _leading(value, self.given):
            message = f"`{ast.unparse(value)}` as steps: the leading axis holds B samples, or T*B rows"
            self._add("warning", "steps", node, message)


def _leading(node: ast.AST, given: set[str]) -> bool:
    """x.shape[0], x.size(0) or len(x) of an argument x."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
        first = isinstance(node.slice, ast.Constant) and node.slice.value == 0
        return first and node.value.attr == "shape" and _name(node.value.value) in given
    if not isinstance(node, ast.Call) or (not node.args and not isinstance(node.func, ast.Attribute)):
        return False
    if isinstance(node.func, ast.Attribute) and node.func.attr == "size":
        zero = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
        return zero and _name(node.func.value) in given
    return _name(node.func) == "len" and isinstance(node.func, ast.Name) and _name(node.args[0]) in given


def _indexes(index: ast.AST, step: str) -> bool:
    """The loop's variable, alone or among the indices; x[t - 1] counts as well."""
    parts = index.elts if isinstance(index, ast.Tuple) else [index]
    return any(
        (isinstance(p, ast.Name) and p.id == step)
        or (isinstance(p, ast.BinOp) and isinstance(p.left, ast.Name) and p.left.id == step)
        for p in parts
    )


def _targets(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Tuple | ast.List):
        for item in node.elts:
            yield from _targets(item)


def _kinds(method: ast.FunctionDef) -> tuple[set[str], set[str]]:
    """Names of lists, and of Python numbers, by what is assigned to them."""
    lists: set[str] = set()
    numbers: set[str] = set()
    for node in ast.walk(method):
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and _name(node.iter.func) == "range":
            numbers |= set(_targets(node.target))
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        goals = node.targets if isinstance(node, ast.Assign) else [node.target]
        value = node.value
        listed = isinstance(value, ast.List | ast.ListComp | ast.Dict | ast.DictComp) or (
            isinstance(value, ast.Call) and _name(value.func) in LISTS
        )
        number = isinstance(value, ast.Constant) or (
            isinstance(value, ast.Call) and _name(value.func) in ("len", "int", "float", "size", "range")
        )
        number = number or (isinstance(value, ast.Subscript) and _name(value.value) == "shape")
        for goal in goals:
            names = set(_targets(goal)) | ({goal.attr} if _is_self(goal) else set())  # type: ignore[attr-defined]
            lists |= names if listed else set()
            numbers |= names if number else set()
    return lists, numbers
