"""Hooks of mkdocs: pages made from the repository, and links that work on the site too.

The reference has every name of every `__all__`; nothing of bellmax is imported for it. Pages link
to files of the repository by relative paths; `repository_links` makes addresses of them.
"""

import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

sys.path.append(str(Path(__file__).parent))  # hooks are loaded alone
import reference  # noqa: E402

ROOT = Path(__file__).parents[2]
# Pages of the site that are files of the repository's root.
ROOT_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
TOUR = re.compile(r"\[[^]]+\]\((?:\.\./)*tour\.ipynb\)")
ROW = re.compile(r"^\| (`\w+`(?:, `\w+`)*) \|", re.MULTILINE)


def on_config(config):
    """Sets the addresses, which only pyproject.toml has."""
    urls = reference.project()["urls"]
    config.repo_url, config.site_url = urls["Repository"], urls["Documentation"]
    config.repo_name = config.repo_url.removeprefix("https://github.com/")
    config.edit_uri = f"{config.repo_url}/edit/main/docs/"
    config.extra["repository"] = config.repo_url
    return config


def on_files(files, config):
    """Adds pages of the repository's root and of the reference."""
    for source, name in ROOT_PAGES.items():
        if name != "index.md" and (ROOT / source).exists():
            text = (ROOT / source).read_text()
            files.append(File.generated(config, name, content=text))
    for name, text in reference.pages()[0].items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites links, links losses to their reference, and ends an agent's page with its own."""
    name = page.file.src_uri
    if page.file.generated_by:
        page.edit_url = None
    source = next((s for s, n in ROOT_PAGES.items() if n == name and n != "index.md"), None)
    folder = Path() if source else Path("docs", name).parent
    markdown = outside_blocks(markdown, lambda t: repository_links(t, folder, name, config))
    markdown = TOUR.sub(rf"\g<0> ([in Colab]({colab(config)}))", markdown)
    package = next((p for p, listing in reference.TOPICS.items() if listing == name), None)
    if package:
        markdown = ROW.sub(lambda m: f"| {linked(m[1], package)} |", markdown)
    if name == "reference/index.md":
        markdown += reference.pages()[1]
    if name.startswith("agents/"):
        markdown += reference.of_agent(page.file.name)
    return markdown


def on_page_content(html, page, config, files):
    """Puts a link to Colab on top of the tour."""
    if page.file.src_uri != "tour.ipynb":
        return html
    return f'<p><a class="md-button" href="{colab(config)}">Open in Colab</a></p>\n{html}'


def colab(config):
    """The address of the tour in Colab."""
    path = config.repo_url.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{path}/blob/main/docs/tour.ipynb"


def linked(names, package):
    """Names in code as links to their reference, those that are public."""
    public = reference.public(package)

    def link(match):
        name = match[1]
        return f"[`{name}`][{package}.{name}]" if name in public else match[0]

    return re.sub(r"`(\w+)`", link, names)


def outside_blocks(markdown, change):
    """Changes a page's text, but no fenced block."""
    parts, end = [], 0
    for block in BLOCK.finditer(markdown):
        parts += [change(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(markdown[end:])])


def repository_links(text, folder, page, config):
    """Makes links to files outside docs/ lead to the repository, or to the page made of the file.

    Args:
      text: Markdown.
      folder: the folder of its source, from the repository's root.
      page: its address below docs/.
      config: of mkdocs.
    """

    def rewrite(match):
        target, rest = match[2], match[3]
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = Path(*normal(folder / target))
        if path.parts[:1] == ("docs",):
            new = relative(path.relative_to("docs").as_posix(), page)
        elif path.as_posix() in ROOT_PAGES:
            new = relative(ROOT_PAGES[path.as_posix()], page)
        elif (ROOT / path).exists():
            kind = "tree" if (ROOT / path).is_dir() else "blob"
            new = f"{config.repo_url}/{kind}/main/{path.as_posix()}"
        else:
            return match[0]  # mkdocs reports it
        return f"{match[1]}{new}{rest}"

    return LINK.sub(rewrite, text)


def normal(path):
    """The parts of a path without `..`."""
    parts = []
    for part in path.parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return parts


def relative(target, page):
    """The link from one page to another, both below docs/."""
    return "../" * page.count("/") + target
