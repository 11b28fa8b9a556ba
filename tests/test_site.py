"""The documentation site builds without a warning, has every public name, and no dead link.

Marked `site`: it needs the extra `docs`.
"""

import html.parser
import importlib
import pathlib
import pkgutil
import subprocess
import sys
import urllib.parse

import pytest

import bellmax
from bellmax.agents import registry

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.site


class Page(html.parser.HTMLParser):
    """The ids of a page, and what it links to or shows."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.targets = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        self.targets += [found[name] for name in ("href", "src") if found.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Path -> page, of every page of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", folder]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return {path: Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}


def place_of(target, path):
    """The file that a link of a page leads to, and the id in it; None outside of the site."""
    url = urllib.parse.urlsplit(target)
    if url.scheme or url.netloc:
        return None
    there = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
    there = there / "index.html" if there.is_dir() else there
    return there, urllib.parse.unquote(url.fragment)


def dead_links(pages):
    """(page, target) of links to files or places that do not exist on a site."""
    found = []
    for path, page in pages.items():
        for target in page.targets:
            known = place_of(target, path)
            # The page of errors has absolute links, as it is shown at any address.
            if known is None or path.name == "404.html":
                continue
            there, place = known
            if not there.exists() or place and there in pages and place not in pages[there].ids:
                found.append((path.as_posix(), target))
    return found


def test_no_link_is_dead(site):
    assert len(site) > 60
    assert dead_links({path.resolve(): page for path, page in site.items()}) == []


def test_a_dead_link_would_be_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html"></a><a href="#x"></a><p id="y">')
    pages = {tmp_path / "a.html": Page((tmp_path / "a.html").read_text())}
    assert [target for _, target in dead_links(pages)] == ["b.html", "#x"]


def public_packages():
    """Every package that has public names."""
    names = ["bellmax"]
    names += [m.name for m in pkgutil.walk_packages(bellmax.__path__, "bellmax.") if m.ispkg]
    packages = {name: importlib.import_module(name) for name in names}
    return {name: found for name, found in packages.items() if getattr(found, "__all__", None)}


def test_every_public_name_has_an_entry(site):
    ids = set().union(*(page.ids for page in site.values()))
    packages = public_packages()
    assert len(packages) >= 8
    missing = []
    for package, module in packages.items():
        for name in module.__all__:
            known = [p for p, other in packages.items() if name in other.__all__]
            if not any(f"{p}.{name}" in ids for p in known):
                missing.append(f"{package}.{name}")
    assert missing == []


def test_every_agent_has_a_page(site):
    pages = {path.parent.name for path in site if path.parent.parent.name == "agents"}
    assert [name for name in registry.names() if name not in pages] == []


def test_every_page_can_be_reached_from_the_first(site):
    pages = {path.resolve(): page for path, page in site.items()}
    home = min(pages, key=lambda path: (len(path.parts), path.name != "index.html"))
    seen, left = set(), [home]
    while left:
        path = left.pop()
        if path in seen or path not in pages:
            continue
        seen.add(path)
        known = (place_of(target, path) for target in pages[path].targets)
        left += [place[0] for place in known if place]
    assert {p.name for p in set(pages) - seen} <= {"404.html"}
