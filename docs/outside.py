"""A hook of MkDocs: takes pages from outside docs/ as the site is built, and makes the repository's links work there.

Pages link by relative paths, as in the repository. What lies outside docs/ has the same path on the site, source code
as a page that shows it. What lies in docs/ stands one level higher on the site.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "bench/**/*.md", "csrc/**/*.md")
PICTURES = ("bench/results/**/*.png",)
CODE = ("LICENSE", "examples/*.py", "tests/enable/two_processes.py", "tests/over_budget.json")
_LINK = re.compile(r"(\]\()([^)\s#:]+)(?=[)\s#])")


def on_config(config: MkDocsConfig) -> None:
    """Below Benchmarks, all reports of each machine."""
    folders = sorted(path for path in ROOT.glob("bench/results/*") if path.name != "accuracy")
    reports = [
        {folder.name: [path.relative_to(ROOT).as_posix() for path in sorted(folder.glob("*.md"))]} for folder in folders
    ]
    benchmarks = next(entry["Benchmarks"] for entry in config.nav if "Benchmarks" in entry)
    benchmarks.append({"All reports": reports})


def on_files(files: Files, config: MkDocsConfig) -> None:
    for path in sorted(path for pattern in PAGES + PICTURES for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for path in sorted(path for pattern in CODE for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        language = {".py": "python", ".json": "json"}.get(path.suffix, "text")
        content = f"---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n`````{language}\n{path.read_text()}`````\n"
        files.append(File.generated(config, f"{name}.md", content=content))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    name = page.file.src_uri
    if name.startswith("bench/results/"):
        page.meta.setdefault("search", {"exclude": True})  # numbers by the thousand
    here = PurePosixPath(f"docs/{name}" if page.file.src_dir == config.docs_dir else name).parent

    def on_site(link: re.Match[str]) -> str:
        target = normpath(here / link[2])
        path = target.removeprefix("docs/")
        if files.get_file_from_path(path) is None:
            path += ".md"  # code
        if files.get_file_from_path(path) is None:
            return link[0]  # MkDocs says so
        return link[1] + relpath(path, PurePosixPath(name).parent)

    return _LINK.sub(on_site, markdown)
