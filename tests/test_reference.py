"""docs/reference/formats.md: each format has the name and version of the code; none is missing."""

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| [^|]+ \| (?P<name>[^|]+) \| (?P<version>\d+) \| `(?P<place>[^`|]+)` \|$", re.M
)
VERSION = re.compile(r"^_?(?:\w+, _?)?VERSION\b.* = ", re.M)
# The names stand in a magic number or in the protocol, not in FORMAT.
OTHERWISE = {"csrc/ngram/format.h", "ctcspeech.serve.native"}


def constant(module, *names):
    found = [getattr(module, name) for name in names if hasattr(module, name)]
    assert len(found) == 1, (module, names)
    return found[0]


def test_names_and_versions_are_those_of_the_code():
    rows = list(ROW.finditer(PAGE))
    assert len(rows) > 10
    for row in rows:
        place, version = row["place"], int(row["version"])
        if place.endswith(".h"):
            text = (ROOT / place).read_text()
            assert f"constexpr uint32_t kVersion = {version};" in text
            continue
        module = importlib.import_module(place)
        assert constant(module, "VERSION", "_VERSION") == version, place
        if place not in OTHERWISE:
            assert f"`{constant(module, 'FORMAT', '_FORMAT', 'KEY', '_KEY')}`" in row["name"]
    assert f"`ctcspeech.v{version_of(rows, 'ctcspeech.serve.native')}`" in PAGE


def version_of(rows, place):
    (row,) = (row for row in rows if row["place"] == place)
    return row["version"]


def test_no_format_is_missing():
    named = {row["place"] for row in ROW.finditer(PAGE)}
    for path in sorted((ROOT / "ctcspeech").rglob("*.py")):
        if VERSION.search(path.read_text(encoding="utf-8")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert module in named, f"{module} has a version, and docs/reference/formats.md has not"


def test_the_bytes_of_the_page_are_the_magic():
    text = (ROOT / "csrc" / "ngram" / "format.h").read_text()
    magic = re.search(r"kMagic\[8\] = \{(.+)\};", text)[1]
    assert magic == r"0x89, 'C', 'L', 'M', '\r', '\n', 0x1A, '\n'"
    assert "`89 43 4C 4D 0D 0A 1A 0A`" in PAGE and bytes.fromhex("434C4D0D0A") == b"CLM\r\n"
    assert "static_assert(sizeof(Header) == 184" in text and "a header of 184 bytes" in PAGE
