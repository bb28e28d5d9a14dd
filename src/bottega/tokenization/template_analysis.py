"""Which chat templates only print the contents of messages, so that what they write around them is always the same.

`only_prints_contents` follows the messages of a conversation through the source of a template. Its answer holds for
plain conversations: without tools, each message with one of the roles of `ROLES`, a content that is not blank, and
nothing else. If it is yes, the text of such a conversation depends on its contents only in that they stand in it, as
they are or stripped: all else is decided by the roles. Where the source does what is not known here, the answer is no.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

from jinja2 import nodes

from bottega.tokenization.template_sandbox import parse

# What an expression may hold: nothing of the contents, a text made of contents and constants, a message, or messages.
# The truth of each is decided by the roles alone, since no content is blank.
Kind = Literal["fixed", "content", "message", "messages"]

# The roles of the messages of a plain conversation.
ROLES = frozenset(("system", "developer", "user", "assistant"))

# Variables of a template that are empty for a plain conversation.
EMPTY = frozenset(("tools", "documents"))

# The attributes of a dict that are no keys; a message has no others but these, its role and its content.
DICT_ATTRIBUTES = frozenset(dir(dict))

# Tests that tell the types of values, not the values.
TYPE_TESTS = frozenset(
    ("defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "boolean")
)

# What filters make of messages.
FILTERED_MESSAGES: dict[str, Kind] = {
    "length": "fixed", "count": "fixed", "list": "messages", "first": "message", "last": "message"
}  # fmt: skip


@cache
def only_prints_contents(source: str) -> bool:
    """Whether the template that has this source does nothing with the contents of messages but print them."""
    try:
        _Analysis().run(parse(source))
    except _NotKnownError:
        return False
    return True


class _NotKnownError(Exception):
    """The template may decide by a content, or does what is not known here."""


class _Analysis:
    """What each name of a template may hold anywhere in it; an attribute of a namespace is a name with a dot.

    macros  names that may not be used
    """

    def __init__(self) -> None:
        self.names: dict[str, Kind] = {"messages": "messages"}
        self.macros = set[str]()

    def run(self, template: nodes.Template) -> None:
        before: dict[str, Kind] = {}
        # A loop may use what it assigns further down: once more until no name holds anything new.
        while before != self.names:
            before = dict(self.names)
            self.statements(template.body)

    # Statements, one method for each class of jinja's

    def statements(self, body: Sequence[nodes.Node]) -> None:
        for node in body:
            visit: Callable[[Any], None] | None = getattr(self, f"_run_{type(node).__name__.lower()}", None)
            if visit is None:
                raise _NotKnownError
            visit(node)

    def _run_output(self, node: nodes.Output) -> None:
        for item in node.nodes:
            if self.kind(item) not in ("fixed", "content"):
                raise _NotKnownError

    def _run_if(self, node: nodes.If) -> None:
        if self.may_be_true(node.test):
            self.statements(node.body)
        self.statements([*node.elif_, *node.else_])

    def _run_macro(self, node: nodes.Macro) -> None:
        self.macros.add(node.name)

    def _run_for(self, node: nodes.For) -> None:
        over = self.kind(node.iter)
        if node.recursive or over not in ("fixed", "messages"):
            raise _NotKnownError
        self._assign(node.target, "message" if over == "messages" else "fixed")
        if node.test is not None:
            self.may_be_true(node.test)
        self.statements([*node.body, *node.else_])

    def _run_assign(self, node: nodes.Assign) -> None:
        value = node.node
        if isinstance(value, nodes.Call) and isinstance(value.node, nodes.Name) and value.node.name == "namespace":
            if not isinstance(node.target, nodes.Name) or value.args or value.dyn_args or value.dyn_kwargs:
                raise _NotKnownError
            for item in value.kwargs:
                self._hold(f"{node.target.name}.{item.key}", self.kind(item.value))
        else:
            self._assign(node.target, self.kind(value))

    def _run_scope(self, node: nodes.Scope) -> None:
        self.statements(node.body)

    def _run_exprstmt(self, node: nodes.ExprStmt) -> None:
        self.kind(node.node)

    def _run_break(self, node: nodes.Node) -> None:
        pass

    _run_continue = _run_break

    def _assign(self, target: nodes.Node, kind: Kind) -> None:
        if isinstance(target, nodes.Name):
            self._hold(target.name, kind)
        elif isinstance(target, nodes.NSRef):
            self._hold(f"{target.name}.{target.attr}", kind)
        elif kind != "fixed" or not isinstance(target, nodes.Tuple):
            raise _NotKnownError
        else:
            for item in target.items:
                self._assign(item, kind)

    def _hold(self, name: str, kind: Kind) -> None:
        owner, _, attribute = name.partition(".")
        # A name that means something else in other places.
        if owner in ("loop", "namespace") or (owner in self.names if attribute else self._is_namespace(name)):
            raise _NotKnownError
        self.names[name] = _joined(self.names.get(name, kind), kind)

    def _is_namespace(self, name: str) -> bool:
        return any(held.startswith(f"{name}.") for held in self.names)

    # Conditions

    def may_be_true(self, node: nodes.Node) -> bool:
        """Whether a condition may be true of a plain conversation."""
        if isinstance(node, nodes.Not):
            self.may_be_true(node.node)
            return True
        if isinstance(node, (nodes.And, nodes.Or)):
            sides = [self.may_be_true(node.left), self.may_be_true(node.right)]
            return all(sides) if isinstance(node, nodes.And) else any(sides)
        self.kind(node)
        if isinstance(node, nodes.Name):
            return node.name not in EMPTY or node.name in self.names
        if isinstance(node, (nodes.Getattr, nodes.Getitem)):
            return _key(node) in (None, "role", "content") or not self._is_message(node.node)
        if isinstance(node, nodes.Compare) and len(node.ops) == 1 and node.ops[0].op == "eq":
            owner, role = node.expr, node.ops[0].expr
            if isinstance(owner, (nodes.Getattr, nodes.Getitem)) and isinstance(role, nodes.Const):
                return _key(owner) != "role" or role.value in ROLES or not self._is_message(owner.node)
        return True

    def _is_message(self, node: nodes.Node) -> bool:
        if isinstance(node, nodes.Name) and (node.name == "loop" or self._is_namespace(node.name)):
            return False
        return self.kind(node) == "message"

    # Expressions, likewise

    def kind(self, node: nodes.Node) -> Kind:
        """What an expression may hold."""
        visit: Callable[[Any], Kind] | None = getattr(self, f"_kind_{type(node).__name__.lower()}", None)
        return self._kind_of_fixed_parts(node) if visit is None else visit(node)

    def _kind_of_fixed_parts(self, node: nodes.Node) -> Kind:
        """Of an expression that is not known here: fixed, since it must have no parts but fixed ones."""
        if not isinstance(node, (nodes.Expr, nodes.Helper)):
            raise _NotKnownError
        for part in node.iter_child_nodes():
            self._require_fixed(part)
        return "fixed"

    def _require_fixed(self, *parts: nodes.Node | None) -> None:
        if any(part is not None and self.kind(part) != "fixed" for part in parts):
            raise _NotKnownError

    def _kind_name(self, node: nodes.Name) -> Kind:
        # A namespace as a whole may go anywhere, with the contents it holds; and a loop has messages.
        if node.name in ("loop", "namespace") or node.name in self.macros or self._is_namespace(node.name):
            raise _NotKnownError
        return self.names.get(node.name, "fixed")

    def _kind_getattr(self, node: nodes.Getattr) -> Kind:
        return self._attribute(node.node, node.attr)

    def _kind_getitem(self, node: nodes.Getitem) -> Kind:
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return self._attribute(node.node, node.arg.value)
        self._require_fixed(node.arg)
        whole = self.kind(node.node)
        if whole == "messages":
            return "messages" if isinstance(node.arg, nodes.Slice) else "message"
        if whole != "fixed":
            raise _NotKnownError
        return "fixed"

    def _attribute(self, owner: nodes.Node, name: str) -> Kind:
        """What the attribute or item `name` of an expression may hold."""
        if isinstance(owner, nodes.Name) and owner.name == "loop":
            if name in ("previtem", "nextitem"):
                raise _NotKnownError
            return "fixed"
        if isinstance(owner, nodes.Name) and f"{owner.name}.{name}" in self.names:
            return self.names[f"{owner.name}.{name}"]
        if isinstance(owner, nodes.Name) and self._is_namespace(owner.name):
            return "fixed"
        whole = self.kind(owner)
        if whole == "message" and name == "content":
            return "content"
        # Of all other keys a message has the role; it is what the roles decide.
        if whole == "fixed" or (whole == "message" and name not in DICT_ATTRIBUTES):
            return "fixed"
        raise _NotKnownError

    def _kind_call(self, node: nodes.Call) -> Kind:
        plain = not (node.kwargs or node.dyn_args or node.dyn_kwargs)
        if isinstance(node.node, nodes.Getattr) and plain:
            owner, method = node.node.node, node.node.attr
            if method == "strip" and not node.args and self.kind(owner) == "content":
                return "content"
            if method == "get" and node.args and self.kind(owner) == "message":
                key, *default = node.args
                if isinstance(key, nodes.Const) and isinstance(key.value, str):
                    found: Kind = "content" if key.value == "content" else "fixed"
                    return _joined(found, *map(self.kind, default))
        return self._kind_of_fixed_parts(node)

    def _kind_filter(self, node: nodes.Filter) -> Kind:
        if node.node is None or node.kwargs or node.dyn_args or node.dyn_kwargs:
            return self._kind_of_fixed_parts(node)
        whole = self.kind(node.node)
        if whole == "content" and node.name in ("trim", "string") and not node.args:
            return "content"
        if whole == "messages" and not node.args and node.name in FILTERED_MESSAGES:
            return FILTERED_MESSAGES[node.name]
        if node.name in ("default", "d"):
            return _joined(whole, *map(self.kind, node.args))
        return self._kind_of_fixed_parts(node)

    def _kind_test(self, node: nodes.Test) -> Kind:
        if node.name in TYPE_TESTS and not node.args:
            self.kind(node.node)
            return "fixed"
        return self._kind_of_fixed_parts(node)

    def _kind_compare(self, node: nodes.Compare) -> Kind:
        if len(node.ops) == 1:
            operation, (left, right) = node.ops[0].op, (node.expr, node.ops[0].expr)
            # Every message has the same keys; and no content is empty.
            if operation in ("in", "notin") and isinstance(left, nodes.Const) and self.kind(right) == "message":
                return "fixed"
            empty = isinstance(right, nodes.Const) and right.value in (None, "")
            if operation in ("eq", "ne") and empty and self.kind(left) in ("content", "message", "messages"):
                return "fixed"
        return self._kind_of_fixed_parts(node)

    def _kind_not(self, node: nodes.Not) -> Kind:
        self.may_be_true(node.node)
        return "fixed"

    def _kind_and(self, node: nodes.BinExpr) -> Kind:
        return _joined(self.kind(node.left), self.kind(node.right))

    _kind_or = _kind_and

    def _kind_condexpr(self, node: nodes.CondExpr) -> Kind:
        otherwise: Kind = "fixed" if node.expr2 is None else self.kind(node.expr2)
        return _joined(self.kind(node.expr1), otherwise) if self.may_be_true(node.test) else otherwise

    def _kind_add(self, node: nodes.Add) -> Kind:
        kind = _joined(self.kind(node.left), self.kind(node.right))
        if kind == "message":
            raise _NotKnownError
        return kind

    def _kind_concat(self, node: nodes.Concat) -> Kind:
        kind = _joined(*map(self.kind, node.nodes))
        if kind not in ("fixed", "content"):
            raise _NotKnownError
        return kind


def _joined(*kinds: Kind) -> Kind:
    """What a value may hold that is one of several, or is a text made of them."""
    held = set(kinds)
    if held == {"fixed", "content"}:
        return "content"
    if len(held) > 1:
        raise _NotKnownError
    return held.pop()


def _key(node: nodes.Getattr | nodes.Getitem) -> Any:
    """The name of an attribute or item; None where it is not a constant."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) else None
