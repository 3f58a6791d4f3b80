"""What must not stand on a built page; shared by tests of the stand-in book and of the book."""

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
