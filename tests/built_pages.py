"""What must not stand on an executed or built page; shared by tests of the stand-in book and of the book."""

import nbformat
from bs4 import BeautifulSoup

LOADS = ("script", "link", "img", "iframe", "source", "video", "audio", "object", "embed")


def page_problems(text: str) -> list[str]:
    """What is wrong with a page of the site: markup that was not read, placeholders, what is loaded from elsewhere."""
    page = BeautifulSoup(text, "html.parser")
    found = ["the placeholder YOUR_ACCOUNT is shown"] * ("YOUR_ACCOUNT" in text)
    for tag in page.find_all(True):
        for name in ("src", "href", "data", "srcset"):
            address = str(tag.get(name) or "")
            if tag.name in LOADS and address.startswith(("http:", "https:", "//")):
                found.append(f"a {tag.name} from elsewhere: {address}")
    for tag in page.find_all(["script", "style", "pre", "code"]):
        tag.decompose()
    shown = page.get_text(" ")
    if "{math}" in shown:
        found.append("{math} is shown and not read")
    found += [f"a back-tick is shown: {line.strip()}" for line in shown.splitlines() if "`" in line]
    return found


def check_outputs(page, pictures: int) -> None:
    """An executed notebook shows so many pictures at least, without error, warning or progress bar."""
    outputs = [output for cell in nbformat.read(page, 4).cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= pictures
    # Warnings and progress bars are noise on a page.
    assert not [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
