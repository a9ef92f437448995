"""The normal form of a module's syntax tree: without docstrings, comments, messages and blocks for type checkers."""

from __future__ import annotations

import ast
from typing import Any

LOGGERS = ("log", "logger", "logging", "warnings")
# Calls that only format a message, and are left out with it.
HARMLESS_CALLS = ("format", "join", "len", "list", "map", "max", "min", "repr", "round", "set", "sorted", "split", "str", "strip")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def normal_form(tree: ast.Module) -> Any:
    """The tree as nested lists for JSON, the same on every version of Python.

    Left out are docstrings and bare strings, the arguments of `raise`, logging calls, the messages of assertions, blocks
    under TYPE_CHECKING, `__version__`, and local variables that nothing but a left-out message reads. The tree is changed.
    """
    stripped = _Stripper().visit(tree)
    for node in ast.walk(stripped):
        if isinstance(node, FUNCTIONS):
            while _drop_unread(node):
                pass
    return _plain(stripped)


class _Stripper(ast.NodeTransformer):
    """Removes nodes that change no result. An emptied block holds `pass`."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        exception = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=exception, cause=None)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return ast.Assert(test=self.visit(node.test), msg=None)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return ast.Pass()
        return ast.Pass() if _is_logging(value) else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        return ast.Pass() if is_type_checking(node) else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if any(isinstance(t, ast.Name) and t.id == "__version__" for t in node.targets):
            return ast.Pass()
        return self.generic_visit(node)


def is_type_checking(node: ast.AST) -> bool:
    """Whether a node is an `if TYPE_CHECKING` block."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_logging(value: ast.expr) -> bool:
    """Whether an expression is `log.warning(...)` or the like."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and isinstance(value.func.value, ast.Name)):
        return False
    return value.func.value.id in LOGGERS and value.func.attr != "basicConfig"


def _drop_unread(function: ast.AST) -> bool:
    """Replace assignments to local names that the function never reads; whether there was one. Calls of other code are kept."""
    nodes = list(ast.walk(function))
    read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    outside = {name for n in nodes if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names}
    changed = False
    for node in nodes:
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if not isinstance(block, list):
                continue
            for place, statement in enumerate(block):
                if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                    reduced = _without_unread(statement, read | outside)
                    if reduced is not statement:
                        block[place], changed = reduced, True
    return changed


def _without_unread(statement: ast.Assign, read: set[str]) -> ast.stmt:
    """The assignment without unread targets: itself, a smaller one, or `pass`."""
    target, value = statement.targets[0], statement.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        pairs = [(t, v) for t, v in zip(target.elts, value.elts, strict=True) if not _is_unread(t, v, read)]
        if len(pairs) == len(target.elts) or any(isinstance(t, ast.Starred) for t in target.elts):
            return statement
        if not pairs:
            return ast.Pass()
        targets, values = zip(*pairs, strict=True)
        if len(pairs) == 1:
            return ast.Assign(targets=[targets[0]], value=values[0])
        return ast.Assign(targets=[ast.Tuple(list(targets), ast.Store())], value=ast.Tuple(list(values), ast.Load()))
    return ast.Pass() if _is_unread(target, value, read) else statement


def _is_unread(target: ast.expr, value: ast.expr, read: set[str]) -> bool:
    if not isinstance(target, ast.Name) or target.id in read:
        return False
    calls = [n.func for n in ast.walk(value) if isinstance(n, ast.Call)]
    names = [f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in calls]
    return all(name in HARMLESS_CALLS for name in names)


def _plain(node: Any) -> Any:
    """A tree as lists: class and fields of each node, without empty fields, `pass` and what only some versions of Python have."""
    if isinstance(node, ast.AST):
        fields = {name: _plain(value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind", "type_comment")}
        return [type(node).__name__, {name: value for name, value in fields.items() if value not in (None, [])}]
    if isinstance(node, list):
        return [_plain(item) for item in node if not isinstance(item, ast.Pass)]
    return node if node is None or isinstance(node, bool | int | str) else repr(node)
