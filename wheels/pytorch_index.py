"""Torch's builds that lie on PyTorch's own index alone: the CPU's for Linux, and that for NVIDIA's cards for Windows.

PyPI has neither, and PyTorch's index is not to be reached from every network, nor does it tell sizes. So the facts
stand here, as others tell them in the files that lock their own projects: each SHA-256 is what at least two projects
that have nothing to do with each other give for the file; the first is also that of the file itself, which was at hand.
Nobody has to believe them: pip and the add-on hold what they fetch against its SHA-256 and refuse anything else, so
that a wrong line can only keep something from being installed.

For another version of torch, put its files here, from the pages that `page` names: each link ends in #sha256=...
"""

from __future__ import annotations

from dataclasses import dataclass

# The page of a build links to files of a host of its own.
PAGE = "https://download.pytorch.org/whl/{build}/torch/"
FILE = "https://download-r2.pytorch.org/whl/{build}/{file}"
# As torch's wheels on PyPI tell it, which are built from the same source.
LICENCE = "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-2-Clause AND BSD-3-Clause AND BSL-1.0 AND MIT"


@dataclass(frozen=True)
class PublishedWheel:
    """One file of PyTorch's index; size in bytes."""

    file: str
    sha256: str
    size: int

    @property
    def version(self) -> str:
        """Torch's, with the build: 2.13.0+cpu."""
        return self.file.split("-")[1]

    @property
    def url(self) -> str:
        """Where it lies."""
        return FILE.format(build=self.version.partition("+")[2], file=self.file.replace("+", "%2B"))


WHEELS = (
    PublishedWheel(
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
        191_794_682,
    ),
    PublishedWheel(
        "torch-2.13.0+cpu-cp313-cp313-manylinux_2_28_x86_64.whl",
        "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
        191_815_667,
    ),
    PublishedWheel(
        "torch-2.13.0+cu130-cp311-cp311-win_amd64.whl",
        "45e97bd9bc0416f4f4190b5098c55119a389fa5a7c8bbf2639f08f1d04e0a0dc",
        1_915_500_000,  # nobody tells it: about as much as the next, which holds the same libraries
    ),
    PublishedWheel(
        "torch-2.13.0+cu130-cp313-cp313-win_amd64.whl",
        "cf23236e9deed7d3510d14d9b9592d75d272ef7b35bbfee31a02bea339c73971",
        1_915_517_499,
    ),
)


class NotPublished(LookupError):
    """WHEELS has no such file."""


def page(build: str) -> str:
    """The index's page of torch's builds for "cpu", "cu130" and so on."""
    return PAGE.format(build=build)


def published(version: str, build: str, python: str, system: str) -> PublishedWheel:
    """Torch of that version and build for that Python; `system` ends the file's platform tag. Raises NotPublished."""
    begin, end = f"torch-{version}+{build}-cp{python.replace('.', '')}-", f"{system}.whl"
    for wheel in WHEELS:
        if wheel.file.startswith(begin) and wheel.file.endswith(end):
            return wheel
    raise NotPublished(f"{begin}...{end} is not in wheels/pytorch_index.py: add it from {page(build)}")
