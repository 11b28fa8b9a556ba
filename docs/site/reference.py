"""The pages of the reference: every name of every `__all__`, found without importing bellmax."""

import ast
import functools
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "bellmax"
# Pages that list losses by topic: their sections are the pages of the reference.
TOPICS = {"bellmax.losses": "losses/losses.md", "bellmax.losses.sequence": "losses/sequence.md"}


def project():
    """The table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def parsed(package):
    """The syntax tree of a package's `__init__.py`."""
    path = PACKAGE.joinpath(*package.split(".")[1:], "__init__.py")
    return ast.parse(path.read_text())


@functools.cache
def packages():
    """Every package that has public names, outer ones first."""
    found = ["bellmax"]
    for folder in sorted(path for path in PACKAGE.iterdir() if path.is_dir()):
        for path in sorted(folder.resolve().rglob("__init__.py")):
            parts = path.parent.relative_to(folder.resolve()).parts
            found.append(".".join(["bellmax", folder.name, *parts]))
    return sorted((p for p in found if public(p)), key=lambda p: (p.count("."), p))


@functools.cache
def public(package):
    """The names in a package's `__all__`."""
    for node in parsed(package).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return tuple(ast.literal_eval(node.value))
    return ()


def homes(package):
    """Module that each public name is imported from; the package itself for what it defines."""
    found = dict.fromkeys(public(package), package)
    for node in ast.walk(parsed(package)):
        if isinstance(node, ast.ImportFrom):
            names = {alias.asname or alias.name for alias in node.names}
            found |= {name: node.module for name in names & found.keys()}
    return found


def entries():
    """Public names by the package that the reference lists them under, which is the outermost."""
    seen, found = set(), {}
    for package in packages():
        known = homes(package)
        new = [n for n in public(package) if (origin(known[n], n), n) not in seen]
        seen |= {(origin(known[n], n), n) for n in new}
        found[package] = new
    return found


def origin(module, name):
    """The module that defines a name; packages between pass it on."""
    while (path := PACKAGE.joinpath(*module.split(".")[1:])).is_dir():
        inner = homes(module).get(name, module)
        if inner == module or not path.exists():
            break
        module = inner
    return module


def slug(title):
    """A title as a file's name."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def topics(package):
    """Title -> modules, by the sections of the page that lists a package's losses."""
    found = {}
    for section in (ROOT / "docs" / TOPICS[package]).read_text().split("\n## ")[1:]:
        modules = re.findall(r"\]\(\.\./\.\./([\w/]+)\.py\)", section)
        if modules:
            found[section.partition("\n")[0]] = [f"bellmax.{m.replace('/', '.')}" for m in modules]
    return found


def first_paragraph(text):
    """The first paragraph of a docstring, as one line."""
    return " ".join((text or "").partition("\n\n")[0].split())


def docstring(module):
    """The docstring of a module or package."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def listing(package, names):
    """The entries of some names."""
    return "\n".join(f"::: {package}.{name}\n" for name in names)


@functools.cache
def pages():
    """Address below docs/ -> Markdown, of all pages of the reference; and a table of them."""
    made, rows = {}, []
    for package, names in entries().items():
        if not names:
            continue
        known, short = homes(package), package.removeprefix("bellmax.")
        if package in TOPICS:
            where = f"reference/{short.replace('.', '/')}"
            left = set(names)
            for title, modules in topics(package).items():
                here = [n for n in names if known[n] in modules]
                left -= set(here)
                text = f"# {title}\n\nFrom `{package}`.\n\n{listing(package, here)}"
                made[f"{where}/{slug(title)}.md"] = text
            if left:
                rest = listing(package, [n for n in names if n in left])
                made[f"{where}/other.md"] = f"# Other\n\n{rest}"
            links = ", ".join(
                f"[{t}]({short.replace('.', '/')}/{slug(t)}.md)" for t in topics(package)
            )
        else:
            parts = [f"# {package}\n\n{docstring(package)}\n"]
            for module in dict.fromkeys(known[n] for n in names):
                here = [n for n in names if known[n] == module]
                if module != package:
                    parts.append(f"## {module}\n\n{first_paragraph(docstring(module))}\n")
                parts.append(listing(package, here))
            made[f"reference/{slug(package)}.md"] = "\n".join(parts)
            links = f"[{len(names)} names]({slug(package)}.md)"
        rows.append(f"| `{package}` | {first_paragraph(docstring(package))} | {links} |")
    table = "\n| package | | pages |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    return made, table


def of_agent(name):
    """The end of an agent's page: its function and its configuration."""
    path = PACKAGE / "agents" / "registry.py"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_AGENTS":
            agents = ast.literal_eval(node.value)
    if name not in agents:
        return ""
    make, config = f"make_{name}", agents[name][1]
    return (
        f"\n\n## Reference\n\n[`{make}`][bellmax.agents.{make}] makes the agent from a "
        f"[`{config}`][bellmax.agents.{config}], which lists every hyper-parameter.\n"
    )
