"""The page on reasons has every reason that the code can give, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFUSALS = {"Refused": 0, "Paused": 0, "Outcome": 2}  # calls: which argument is the reason


def reasons(node: ast.expr | None) -> Iterator[str]:
    """The texts that an expression can be; {name} in an f-string becomes <name>."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(
                f"<{ast.unparse(part.value)}>"
                if isinstance(part, ast.FormattedValue)
                else str(ast.literal_eval(part))
                for part in parts
            )
        case ast.IfExp(body=body, orelse=orelse):
            yield from reasons(body)
            yield from reasons(orelse)
        case ast.Tuple(elts=[first, *_]):
            yield from reasons(first)
        case ast.Call(func=ast.Attribute(attr="get"), args=[_, default]):
            yield from reasons(default)


def reasons_in(tree: ast.AST) -> Iterator[str]:
    """Those of refused rows, and those that a method `reason` returns."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=args) if name in REFUSALS:
                yield from reasons(args[REFUSALS[name]] if len(args) > REFUSALS[name] else None)
            case ast.FunctionDef(name="reason"):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Return):
                        yield from reasons(inner.value)


def test_the_page_lists_the_reasons_that_the_code_gives() -> None:
    sources = (ROOT / "pipelines").rglob("*.py")
    given = {reason for path in sources for reason in reasons_in(ast.parse(path.read_text()))}
    page = (ROOT / "docs/reference/reasons.md").read_text()
    listed = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
    assert {"timeout", "http_<status>", "undecodable", "duplicate_row", "language"} <= given
    assert listed == given
