"""What an image is made of, and so what it is called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from launchers.image import requirement_file
from launchers.images import install
from launchers.repository import IMAGES, ROOT
from videolift.provenance import FOLDER

TAG_LENGTH = 12  # hexadecimal digits


@dataclass(frozen=True)
class Recipe:
    """What an image is made of."""

    purpose: str  # preprocess | train
    base_image: str
    own_source: bool  # with our source (byoc), or its libraries only (byos)
    pip_index_url: str | None = None
    pip_trusted_host: str | None = None
    wheels: Path | None = None  # folder to install from instead of an index

    @cached_property
    def contents(self) -> dict[str, bytes]:
        """What the image is made of but for wheels, read once: a file that changes during a build is not in it."""
        return {name: path.read_bytes() for name, path in sorted((self.image_files | self.source_files).items())}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what determines the image's contents, wherever they are fetched from."""
        digest = hashlib.sha256(f"{self.base_image}\0{self.target}\0".encode())
        for name, content in self.contents.items():
            digest.update(name.encode() + b"\0" + content + b"\0")
        return digest.hexdigest()

    @property
    def tag(self) -> str:
        """The image's name."""
        name = f"videolift-{self.purpose}" + ("" if self.own_source else "-libraries")
        return f"{name}:{self.digest[:TAG_LENGTH]}"

    @property
    def target(self) -> str:
        """The stage of the Dockerfile."""
        return "job" if self.own_source else "libraries"

    @property
    def dockerfile(self) -> Path:
        return IMAGES / f"{self.purpose}.Dockerfile"

    @property
    def image_files(self) -> dict[str, Path]:
        """What the libraries come from, by the name that ``docker build`` sees."""
        files = (self.dockerfile, Path(install.__file__), requirement_file(self.purpose))
        return {path.relative_to(ROOT).as_posix(): path for path in files}

    @property
    def source_files(self) -> dict[str, Path]:
        """Our source, where it is wanted, by the name that ``docker build`` sees."""
        files = sorted(FOLDER.rglob("*.py")) if self.own_source else []
        return {f"src/videolift/{path.relative_to(FOLDER).as_posix()}": path for path in files}

    @property
    def wheel_files(self) -> dict[str, Path]:
        """Those wheels here that the requirement file names, by the name that ``docker build`` sees."""
        folder = (self.wheels or IMAGES / "wheels").expanduser()
        wanted = install.read_requirements(requirement_file(self.purpose).read_text(encoding="utf-8"))
        return {
            f"launchers/images/wheels/{path.name}": path
            for path in sorted(folder.glob("*.whl"))
            if (name := install.normalised(path.name.split("-")[0])) in wanted
            and install.has_wheel(name, wanted[name], [path.name])
        }

    @property
    def files(self) -> dict[str, Path]:
        """All that ``docker build`` is sent."""
        # The folder has to be there; its file that never changes spoils no layer of the engine's cache.
        kept = {"launchers/images/wheels/.gitignore": IMAGES / "wheels" / ".gitignore"}
        return {**self.image_files, **kept, **self.source_files, **self.wheel_files}
