"""The name of the library of autograd nodes in C++, for setup.py, which makes it, and for ops.py, which loads it."""


def nodes_library(torch_version: str) -> str:
    """The builds of one release (2.13.0+cpu, 2.13.0+cu130) have one source, and one library serves them. Builds from
    between releases (2.14.0a0+git4c2b1f0) do not: there the commit is part of the name."""
    release, _, build = torch_version.partition("+")
    if "a" in release and build:
        release = f"{release}-{build}"
    return f"libfastact_autograd-{release}.so"
