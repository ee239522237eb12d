"""The tests of a part of vod2 stand where the part stands."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "vod2"
# What all of a kind promise, what a user does from end to end, what tests share, tools/
OTHERS = {"contracts", "e2e", "helpers", "reference", "tools"}


def folders_of_tests() -> list[Path]:
    """Folders with tests of parts, as paths below tests/."""
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")} - {Path()}
    return sorted(folder for folder in folders if folder.parts[0] not in OTHERS)


def test_every_folder_of_tests_is_a_folder_or_module_of_the_package():
    folders = folders_of_tests()
    assert Path("data/clips") in folders
    strange = [folder for folder in folders if not (PACKAGE / folder).is_dir() and not is_module(PACKAGE / folder)]
    assert not strange, f"tests/{strange[0]} is named after nothing in vod2"


def is_module(path: Path) -> bool:
    return path.with_suffix(".py").is_file()


def test_the_type_checker_finds_the_projects_where_python_does():
    """pyproject.toml gives it this link; where Git has made a file of it, `git config core.symlinks true` helps."""
    link = TESTS.parent / ".mypy_path" / "vod2" / "projects"
    assert link.is_symlink() and link.resolve() == TESTS.parent / "projects"


def test_the_tests_of_data_stand_in_the_folders_of_its_rooms():
    assert not list((TESTS / "data").glob("test_*.py"))
