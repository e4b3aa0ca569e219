"""The pages under docs/ say what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from dicom_node.config import load_config
from dicom_node.conformance import statement
from dicom_node.eligibility import STUDY_CODE, STUDY_SENTENCES
from dicom_node.result_forms import SOP_CLASSES
from dicom_node.rules import EligibilityRules
from ml.data.refusals import SENTENCES

REPO = Path(__file__).parents[1]
CODE = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")


def _codes_in_code() -> set[str]:
    """Every stable code that the packages can store or print."""
    codes = {*STUDY_SENTENCES, *STUDY_CODE, *SENTENCES, "CHOSEN", "ELIGIBLE"}
    codes |= {rule.code for rule in EligibilityRules().exclude}
    for path in [*(REPO / "dicom_node").glob("*.py"), *(REPO / "worker").rglob("*.py"), *(REPO / "ml").glob("*.py")]:
        text = path.read_text()
        codes |= set(re.findall(r'^    code = "([A-Z_]+)"', text, re.MULTILINE))
        codes |= set(re.findall(r'(?:ResultInvalid|_require)\([^"]*"([A-Z]+_[A-Z_]+)"', text))
        codes |= set(re.findall(r'error_code = "([A-Z_]+)"', text))
        codes |= {code for pair in re.findall(r'"([A-Z_]+)" if poison else "([A-Z_]+)"', text) for code in pair}
    for path in (REPO / "ml" / "data").rglob("*.py"):  # left-out.csv and unreadable.csv
        codes |= set(re.findall(r'(?:LeftOut|Verdict|_failed)\(.*?"([A-Z_]{6,})"', path.read_text()))
        codes |= set(re.findall(r'yield "([A-Z_]+)"', path.read_text()))
    return codes


def test_every_code_is_explained() -> None:
    """docs/errors.md names each of them."""
    page = (REPO / "docs" / "errors.md").read_text()
    missing = {code for code in _codes_in_code() if not re.search(rf"\b{code}\b", page)}
    assert not missing, f"docs/errors.md does not explain {sorted(missing)}"


def test_no_code_is_explained_that_does_not_exist() -> None:
    """Every code on the page stands somewhere in the packages."""
    sources = [*(REPO / "dicom_node").iterdir(), *(REPO / "worker").rglob("*.py"), *(REPO / "ml").rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources if path.suffix in (".py", ".toml"))
    unknown = set(CODE.findall((REPO / "docs" / "errors.md").read_text())) - set(CODE.findall(text))
    assert not unknown, f"docs/errors.md explains {sorted(unknown)}, which the packages do not have"


def test_the_conformance_statement_is_that_of_the_shipped_configuration() -> None:
    """docs/conformance.md is what `dicom-node conformance` prints for config.toml."""
    assert (REPO / "docs" / "conformance.md").read_text() == statement(load_config(REPO / "config.toml"))


def test_the_command_prints_the_statement() -> None:
    """`dicom-node conformance` is how the page is renewed."""
    command = [sys.executable, "-m", "dicom_node", "--config", "config.toml", "conformance"]
    printed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert printed.rstrip("\n") == (REPO / "docs" / "conformance.md").read_text().rstrip("\n")


def test_every_form_of_result_is_described() -> None:
    """docs/objects.md has a line for each, with its SOP class."""
    page = (REPO / "docs" / "objects.md").read_text()
    for name, sop_class in SOP_CLASSES.items():
        assert re.search(rf"^\| `{name}` \|[^|]*\| {re.escape(sop_class)} \|", page, re.MULTILINE), name


def test_links_between_pages_lead_somewhere() -> None:
    """No dead link in README.md or docs/."""
    dead = []
    for page in [REPO / "README.md", *(REPO / "docs").rglob("*.md")]:
        targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
        dead += [f"{page.name}: {target}" for target in targets if not (page.parent / target).exists()]
    assert not dead
