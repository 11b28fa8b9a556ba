"""A griffe extension: comments above fields, and how docstrings of bellmax list several names.

bellmax writes what a field of a configuration means as a comment above it, what a field of a named
tuple means as a line `name: text` in the docstring of the class, and what several parameters mean
as one line `name, name: text`.
"""

import re

from griffe import Extension

PARAMETERS = re.compile(r"^( +)(\w+(?:,\s+\w+)+): ((?:.+\n?)(?:\1 +.+\n?)*)", re.MULTILINE)


class Fields(Extension):
    """Puts docstrings into Google's form, with what comments say of a class's fields."""

    def on_function_instance(self, *, func, **kwargs):
        if func.docstring:
            func.docstring.value = separate_parameters(func.docstring.value)

    def on_class_members(self, *, cls, **kwargs):
        if not cls.docstring:
            return
        text = with_attributes(cls.docstring.value, set(cls.attributes))
        found = {name: comment(field) for name, field in cls.attributes.items()}
        lines = [f"  {name}: {words}" for name, words in found.items() if words]
        if lines and "Attributes:" not in text:
            text = "\n".join([text.rstrip(), "", "Attributes:", *lines])
        cls.docstring.value = text


def comment(field):
    """The comment above a field, as one line."""
    if not field.lineno:
        return ""
    lines, found = field.filepath.read_text().splitlines()[: field.lineno - 1], []
    while lines and lines[-1].strip().startswith("# "):
        found.insert(0, lines.pop().strip().removeprefix("# "))
    return " ".join(found)


def separate_parameters(text):
    """Repeats the text of `name, name: text` under Args for each name."""
    head, args, rest = text.partition("\nArgs:\n")
    body, blank, tail = rest.partition("\n\n")

    def each(match):
        indent, names, words = match.groups()
        return "".join(f"{indent}{name}: {words.rstrip()}\n" for name in re.split(r",\s+", names))

    return head + args + PARAMETERS.sub(each, body).rstrip("\n") + blank + tail


def with_attributes(text, names):
    """Turns what a class docstring says of its fields into an `Attributes` section, at its end.

    In a paragraph that starts with a field, fields start a line or a sentence. Lines of signatures,
    `name(...) -> ...`, stay as they are written.
    """
    name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    start = re.compile(rf"(?:^|(?<=[.;] ))((?:{name})(?:, (?:{name}))*): ", re.MULTILINE)
    kept, found = [], []
    for paragraph in text.split("\n\n"):
        if re.search(r"^\w+\(.*\) ->", paragraph, re.MULTILINE):
            kept.append("\n".join(f"    {line}" for line in paragraph.splitlines()))
            continue
        if not names or not start.match(paragraph):
            kept.append(paragraph)
            continue
        _, *parts = start.split(paragraph)
        for known, words in zip(parts[::2], parts[1::2], strict=True):
            words = " ".join(words.split()).rstrip(";")
            found += [f"  {one}: {words}" for one in known.split(", ")]
    if not found:
        return "\n\n".join(kept)
    return "\n\n".join([*kept, "Attributes:\n" + "\n".join(found)])
