"""An edit of any shipped module, at any depth, changes the id of each stage that imports it, and of no other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from launchers.config import Config
from launchers.images.probe import source_of
from launchers.planning import plan_stages
from launchers.recipe import Recipe
from videolift import provenance
from videolift.manifest import Clip, Manifest
from videolift.provenance import LIBRARIES, PACKAGE, module_of, source_digest
from videolift.settings import Precision

MANIFEST = Manifest(
    ("a", "b"),
    (Clip("a/1.avi", 0, "g1", "train", "00", 5), Clip("b/2.avi", 1, "g2", "test", "11", 5)),
    "folder",
)
TRAIN, EVALUATE = (f"{module_of(stage).replace('.', '/')}.py" for stage in ("train", "evaluate"))
TREE = {
    "__init__.py": "",
    TRAIN: "from videolift.nets.wide import build\n",
    EVALUATE: "from videolift import marks\n",
    "marks.py": "from .numbers import mean\n",
    "numbers.py": "",
    "unused.py": "",
    "nets/__init__.py": "",
    "nets/wide.py": "def build():\n    from ..inside.deep import inner\n    import videolift.nets.late\n",
    "nets/late.py": "",
    "inside/__init__.py": "from videolift.inside import deep\n",
    "inside/deep/__init__.py": "from . import inner\n",
    "inside/deep/inner.py": "",
}
EVERYONE = {"__init__.py"}
OF_TRAIN = {name for name in TREE if name.startswith(("nets", "inside"))} | {TRAIN} | EVERYONE
OF_EVALUATE = {EVALUATE, "marks.py", "numbers.py"} | EVERYONE


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of packages that may be edited, in place of ours."""
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "FOLDER", tmp_path)
    return tmp_path


def changed_by_edits(folder: Path, stage: str) -> Iterator[str]:
    """Yield the path of each module of a package whose edit changes the digest of a stage."""
    before = source_digest(module_of(stage))
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        path.write_text(f"{text}# edited\n", encoding="utf-8")
        if source_digest(module_of(stage)) != before:
            yield path.relative_to(folder).as_posix()
        path.write_text(text, encoding="utf-8")


def test_packages_in_packages_and_imports_of_every_kind_are_followed(package: Path) -> None:
    assert set(changed_by_edits(package, "train")) == OF_TRAIN
    assert set(changed_by_edits(package, "evaluate")) == OF_EVALUATE


def test_a_module_that_moves_into_a_package_changes_the_digest(package: Path) -> None:
    before = source_digest(module_of("evaluate"))
    (package / "marks").mkdir()
    (package / "marks.py").rename(package / "marks" / "__init__.py")
    (package / "marks" / "__init__.py").write_text("from videolift.numbers import mean\n")
    assert source_digest(module_of("evaluate")) != before


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of our package that may be edited."""
    folder = tmp_path / PACKAGE
    shutil.copytree(provenance.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "FOLDER", folder)
    return folder


def imported_by(folder: Path, stage: str) -> set[str]:
    """Return the modules of a package that a stage imports, found by another reader of imports than ours."""
    libraries = ["av", "cv2", "keras", "matplotlib", "numpy", "psutil", "tensorflow"]
    finder = ModuleFinder(path=[str(folder.parent)], excludes=libraries)
    finder.import_hook(f"{PACKAGE}.{module_of(stage)}")
    files = [Path(module.__file__) for module in finder.modules.values() if module.__file__]
    return {path.relative_to(folder).as_posix() for path in files if path.is_relative_to(folder)}


@pytest.mark.parametrize("stage", list(LIBRARIES))
def test_an_edit_of_a_shipped_module_changes_the_stages_that_import_it(ours: Path, stage: str) -> None:
    assert set(changed_by_edits(ours, stage)) >= imported_by(ours, stage)  # ours counts imports for types, too


def test_the_digest_is_in_the_id(ours: Path) -> None:
    def ids() -> dict[str, str]:
        planned = plan_stages(Config(), MANIFEST, Precision.float32, lambda stage: {})
        return {name: stage.id for name, stage in planned.items()}

    def edit(stage: str) -> None:
        path = ours.joinpath(*module_of(stage).split(".")).with_suffix(".py")
        path.write_text(path.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")

    before = ids()
    edit("evaluate")
    assert {name for name in before if ids()[name] != before[name]} == {"evaluate", "visualize"}
    edit("train")
    assert {name for name in before if ids()[name] != before[name]} == {"train", "evaluate", "visualize"}
    edit("preprocess")
    assert {name for name in before if ids()[name] != before[name]} == set(before)


def test_an_image_is_sent_the_modules_of_packages_and_named_by_them(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launchers.recipe.FOLDER", package)

    def recipe() -> Recipe:
        return Recipe("preprocess", "debian:none", own_source=True)

    assert set(recipe().source_files) == {f"src/videolift/{name}" for name in TREE}
    tag, source = recipe().tag, source_of(str(package))
    (package / "inside" / "deep" / "inner.py").write_text("# edited\n")
    assert recipe().tag != tag and source_of(str(package)) != source


def test_the_source_of_a_package_tells_modules_of_one_name_apart(package: Path) -> None:
    before = source_of(str(package))
    (package / "unused.py").rename(package / "nets" / "unused.py")
    assert source_of(str(package)) != before
