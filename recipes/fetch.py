"""Fetching a corpus from its public source: whole or not at all, resumed where it broke off."""

import os
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from ctcspeech.progress import Progress


def fetch(url: str, folder: Path) -> Path:
    """The file that `url` names, in `folder`; not fetched again if it is there."""
    path = folder / url.rsplit("/", 1)[-1]
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            resumed = response.status == 206
            length = response.headers.get("Content-Length")
            total = int(length) + (have if resumed else 0) if length else None
            with (
                open(part, "ab" if resumed else "wb") as file,
                Progress(f"fetching {url}", total, "byte") as progress,
            ):
                progress.advance(have if resumed else 0)
                while block := response.read(1 << 20):
                    file.write(block)
                    progress.advance(len(block))
    except (urllib.error.URLError, OSError) as error:
        sys.exit(f"cannot fetch {url}: {error}; run the same command again to go on")
    if total is not None and part.stat().st_size != total:
        sys.exit(
            f"{url} broke off at {part.stat().st_size} of {total} bytes; run it again to go on"
        )
    os.replace(part, path)
    return path


def unpack(archive: Path, folder: Path) -> None:
    """Extracts a zip or tar file; refuses members that would leave the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(folder)
        else:
            with tarfile.open(archive) as opened_tar:
                opened_tar.extractall(folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        sys.exit(f"{archive} is damaged ({reason}); delete it and run the same command again")
