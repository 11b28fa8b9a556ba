"""A griffe extension: comments above fields, and how docstrings of bellmax list several names.

bellmax writes what a field of a configuration means as a comment above it, what a field of a named
tuple means as a line `name: text` in the docstring of the class, and what several parameters mean
as one line `name, name: text`.
"""

import re

from griffe import Docstring, Extension

FIELD = re.compile(r"^(\w+(?:, \w+)*): (.*)$")
PARAMETERS = re.compile(r"^( +)(\w+(?:,\s+\w+)+): ((?:.+\n?)(?:\1 +.+\n?)*)", re.MULTILINE)


class Fields(Extension):
    """Documents attributes by the comments above them, and puts docstrings into Google's form."""

    def on_attribute_instance(self, *, node, attr, agent, **kwargs):
        if attr.docstring or not hasattr(node, "lineno"):
            return
        lines = attr.filepath.read_text().splitlines()
        found, at = [], node.lineno - 2
        while at >= 0 and lines[at].strip().startswith("# "):
            found.insert(0, lines[at].strip().removeprefix("# "))
            at -= 1
        if found:
            attr.docstring = Docstring(" ".join(found), parent=attr)

    def on_function_instance(self, *, func, **kwargs):
        if func.docstring:
            func.docstring.value = separate_parameters(func.docstring.value)

    def on_class_members(self, *, cls, **kwargs):
        if cls.docstring:
            cls.docstring.value = with_attributes(cls.docstring.value, set(cls.attributes))


def separate_parameters(text):
    """Repeats the text of `name, name: text` under Args for each name."""
    head, args, rest = text.partition("\nArgs:\n")
    body, blank, tail = rest.partition("\n\n")

    def each(match):
        indent, names, words = match.groups()
        return "".join(f"{indent}{name}: {words.rstrip()}\n" for name in re.split(r",\s+", names))

    return head + args + PARAMETERS.sub(each, body).rstrip("\n") + blank + tail


def with_attributes(text, names):
    """Turns lines `name: text` about known attributes into an `Attributes` section, at the end."""
    kept, found = [], []
    for line in text.splitlines():
        match = FIELD.match(line)
        if match and set(match[1].split(", ")) <= names:
            found += [f"  {name}: {match[2]}" for name in match[1].split(", ")]
        elif found and line.startswith("  "):  # continues the line above
            found.append(f"  {line}")
        else:
            kept.append(line)
    if not found:
        return text
    return "\n".join(kept).rstrip() + "\n\nAttributes:\n" + "\n".join(found)
