"""C++ read as text, for tests that hold the sources to rules: words and signs, what opens each pair of braces, and what ends in a semicolon between them. It knows as much of the language as these files use; the
compiler judges the rest. Macros are words like others; all branches of #if are read."""

import dataclasses
import os
import re

TOKEN = re.compile(
    r"""(?P<skip>//[^\n]*|/\*.*?\*/|^[ \t]*\#(?:\\\n|[^\n])*)|(?P<text>R"([^()\\\s]*)\(.*?\)\3"|"(?:\\.|[^"\\\n])*")|(?P<number>\d[\w.']*)|(?P<char>'(?:\\.|[^'\\\n])+')"""
    r"""|(?P<word>[A-Za-z_]\w*)|(?P<sign>::|\[\[|\]\]|[^\s])""",
    re.S | re.M,
)
TYPES = ("class", "struct", "union", "enum")
CLOSING = {")": "(", "]": "[", "]]": "[[", ">": "<"}
BEFORE_A_BODY = ("const", "noexcept", "override", "final", "try", "mutable")


@dataclasses.dataclass
class Part:
    """What stands between two braces, with its head; or a statement outside of functions."""

    kind: str  # "namespace", "type", "function", "statement"; "code": braces within one of these
    name: str  # of a namespace or a type; "": an unnamed namespace
    head: list  # the words before the brace, or of the statement
    first: int  # lines: of the head,
    opened: int  # of its brace,
    closed: int  # and of the brace or semicolon that ends it
    around: list  # the parts that it is in, from the outermost


def sources_in(folder, pattern=r"\.(cc|h|cu)$"):
    """(path from the folder on, text) of each file."""
    for directory, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if re.search(pattern, name):
                path = os.path.join(directory, name)
                with open(path, encoding="utf-8") as file:
                    yield os.path.relpath(path, folder), file.read()


def tokens_of(text):
    line, at = 1, 0
    for match in TOKEN.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        if match["skip"] is None:
            yield line, '""' if match["text"] is not None or match["char"] is not None else match[0]


def outer(head):
    """Of the tokens those that stand in no brackets, and where. Angle brackets count behind a name alone: there they hold template arguments."""
    found, depth = [], []
    for at, token in enumerate(head):
        if token in ("(", "[", "[[") or (token == "<" and at and re.match(r"\w", head[at - 1]) and head[at - 1] != "operator"):
            depth.append(token)
        elif token in CLOSING and CLOSING[token] in depth:
            while depth.pop() != CLOSING[token]:
                pass
        elif not depth:
            found.append((at, token))
    return found


def type_of(head):
    """The name in `template <...> struct alignas(8) Name<int> final : Base`; None for what is no definition of a type."""
    plain = outer(head)
    words = [token for _, token in plain]
    start = next((i for i, token in enumerate(words) if token in TYPES), None)
    if start is None or "=" in words[:start] or "operator" in words:
        return None
    name = ""
    for i in range(start + 1, len(words)):
        at, token = plain[i]
        if token in (":", "final", "="):
            break
        if token in TYPES or token == "alignas" or (token.isupper() and head[at + 1 : at + 2] == ["("]):
            continue
        if name and not name.endswith("::") and token != "::":
            return None  # `struct Name variable`
        name += token
        if head[at + 1 : at + 2] == ["<"]:  # a specialization
            end = plain[i + 1][0] if i + 1 < len(plain) else len(head)
            name += "".join(head[at + 1 : end])
        elif head[at + 1 : at + 2] == ["("]:
            return None  # a function that returns a type named so
    return name or None


def called_in(head):
    """Where the name of a function stands in its head; None where there is none."""
    for at, token in outer(head):
        if token == "=":
            return None
        if head[at + 1 : at + 2] == ["("] and re.match(r"[A-Za-z_]", token) and token not in ("decltype", "requires", "alignas", "noexcept"):
            return at
        if token == "operator":
            return at
    return None


def parameters_of(head):
    """The tokens of a function's parameters, in their parentheses."""
    start = called_in(head) + 1
    while head[start] != "(" or (head[start - 1] == "operator" and head[start + 1] == ")"):
        start += 1 if head[start] != "(" else 2
    depth = 0
    for end in range(start, len(head)):
        depth += {"(": 1, ")": -1}.get(head[end], 0)
        if depth == 0:
            return head[start : end + 1]
    return head[start:]


def kind_of(head, brackets):
    """What a brace opens: (kind, name)."""
    words = [word for word in head if word != "inline"]
    if brackets > 0:
        return "code", ""
    if "namespace" in [word for _, word in outer(head)]:  # a macro may stand before it
        return "namespace", "".join(words[words.index("namespace") + 1 :])
    if words == ["extern", '""']:
        return "namespace", None
    name = type_of(head)
    if name:
        return "type", name
    if called_in(head) is None:
        return "code", ""
    in_list = ":" in [token for _, token in outer(head)] and re.match(r"\w", head[-1]) and head[-1] not in BEFORE_A_BODY  # of a constructor, `member{value}`
    return ("code", "") if in_list else ("function", "".join(head[called_in(head)]))


def parts_of(text):
    """Yields each part where it ends. Raises ValueError where braces don't match."""
    open_parts, head, first, brackets = [], [], 0, 0
    for line, token in tokens_of(text):
        inside = bool(open_parts) and open_parts[-1][0].kind in ("function", "code")
        if token == "{":
            kind, name = ("code", "") if inside else kind_of(head, brackets)
            open_parts.append((Part(kind, name, head, first or line, line, 0, [part for part, _ in open_parts]), brackets))
            head, first, brackets = [], 0, 0
        elif token == "}":
            if not open_parts:
                raise ValueError(f"line {line}: a brace too many")
            part, brackets = open_parts.pop()
            part.closed = line
            yield part
            around_code = bool(open_parts) and open_parts[-1][0].kind in ("function", "code")
            head, first = (part.head + ["{}"], part.first) if part.kind == "code" and not around_code else ([], 0)
        elif inside:
            continue
        elif token == ";" and brackets == 0:
            if head:
                yield Part("statement", "", head, first, line, line, [part for part, _ in open_parts])
            head, first = [], 0
        elif token == ":" and head and head[-1] in ("public", "private", "protected") and len(head) == 1:
            head, first = [], 0
        else:
            brackets += {"(": 1, ")": -1}.get(token, 0)
            head.append(token)
            first = first or line
    if open_parts:
        raise ValueError(f"line {open_parts[-1][0].opened}: a brace is not closed")
