"""Listings of a data root: files by their names, through links, and lists of names in files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from latent_store.errors import DatasetError
from latent_store.format.ids import is_one_line, normal_id
from latent_store.format.sample_lists import Samples
from latent_store.format.samples import Sample
from latent_store.storage.location import Location
from pipelines.datasets.files import read_file

APPLE_DOUBLE = "._"
"""Begins the names of files that macOS puts beside others, with the same suffix."""


def list_files(location: Location, folder: str, *suffixes: str) -> dict[str, int]:
    """Lists the files below a folder, in the order of their paths, with their lengths in bytes.

    Links are followed, to files and to folders, but not in circles. Folders that begin with a dot
    are left out, and files that begin with `._`: systems and their archives strew them. A folder, a
    pipe or a link to nothing that has such a suffix is listed as well: reading it says what it is.
    A folder that is not there has no files. Suffixes count in whatever case.

    Raises:
        OSError: A folder cannot be listed.
    """
    ends = tuple(suffix.lower() for suffix in suffixes)
    if location.local_path is None:
        listed = location.sizes(folder).items()
        found = {uri: size for uri, size in listed if _is_wanted(uri[len(folder) :], ends)}
    else:
        top = location.path(folder).rstrip("/")
        real = Path(os.path.realpath(top))  # Of a link to itself too.
        above = {str(parent) for parent in (real, *real.parents)}
        pairs = _below(top, ends, above) if real.is_dir() else ()
        start = len(location.root) + 1
        found = {path[start:]: size for path, size in pairs}
    return dict(sorted(found.items()))


@dataclass(frozen=True, kw_only=True)
class FoundFiles:
    """Files of one kind.

    Attributes:
        uris: Path of each by its name below the folder, without the suffix, in Unicode form NFC.
        lengths: Bytes of each by its path, in the same order.
        aside: Words on a file whose suffix is written in another case; empty if there is none.
    """

    uris: dict[str, str]
    lengths: dict[str, int]
    aside: str


def find_files(
    location: Location, folder: str, suffix: str, *, any_case: bool = False
) -> FoundFiles:
    """Finds the files below a folder that end in `suffix`, by the names that others know them by.

    Without `any_case` the suffix counts as it is written.

    Raises:
        DatasetError: Two names differ in their Unicode form alone.
    """
    uris: dict[str, str] = {}
    listed = list_files(location, folder, suffix)
    lengths = {uri: size for uri, size in listed.items() if any_case or uri.endswith(suffix)}
    for uri in lengths:
        name = normal_id(uri.removeprefix(f"{folder}/")[: -len(suffix)])
        if name in uris:
            raise DatasetError(
                f"{uris[name]!a} and {uri!a} are one name, in two Unicode forms or cases of the "
                "suffix; remove one"
            )
        uris[name] = uri
    odd = next((uri for uri in listed if uri not in lengths), None)
    aside = f" ({odd} does not count: names end in {suffix}, in this case)" if odd else ""
    return FoundFiles(uris=uris, lengths=lengths, aside=aside)


def list_folders(location: Location, folder: str) -> list[str]:
    """Lists the names of the folders, and of links to folders, directly in a folder, ascending."""
    if location.local_path is None:
        return location.folders(folder)
    if not Path(location.path(folder)).is_dir():
        return []
    with os.scandir(location.path(folder)) as entries:
        return sorted(e.name for e in entries if e.name[0] != "." and _is_folder(e))


def read_list(location: Location, uri: str) -> list[str]:
    """Reads a list of names, one a line; blanks around a name and empty lines are left out.

    Raises:
        FileNotFoundError: There is no such list.
        DatasetError: It is no text in UTF-8, nor in UTF-16 with its mark at the beginning.
    """
    if not location.exists(uri):
        raise FileNotFoundError(uri)
    data = read_file(location, uri)
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{uri} is no text in {error.encoding} ({error.reason} at byte {error.start}); save it "
            "as UTF-8"
        ) from error
    if "\0" in text:
        raise DatasetError(
            f"{uri} has zero bytes, as UTF-16 without its mark at the beginning; save it as UTF-8"
        )
    # Lists that were put together begin with a mark each.
    names = (line.removeprefix("\ufeff").strip() for line in text.splitlines())
    return [name for name in names if name]


def require_names(samples: Iterable[Sample]) -> Samples:
    """Returns samples whose names can stand in tables, in messages and beside each other.

    Raises:
        DatasetError: A path is no line of text, or two samples have one id; names the files.
    """
    listed = Samples.of(map(_with_lines, samples))
    if found := listed.twice:
        other, sample = (listed[place] for place in found)
        raise DatasetError(
            f"{other.image_uri} and {sample.image_uri} have the id {sample.sample_id!r}: ids "
            "must be unique in a split; rename one, with its labels"
        )
    return listed


def _with_lines(sample: Sample) -> Sample:
    for uri in (sample.image_uri, sample.label_uri, sample.boxes_uri):
        if not is_one_line(uri):
            raise DatasetError(
                f"{uri!r} cannot be the path of a picture or label: it is no line of text in "
                "UTF-8; rename that file or folder"
            )
    return sample


def _below(folder: str, ends: tuple[str, ...], above: set[str]) -> Iterator[tuple[str, int]]:
    """Yields paths and lengths; `above` are the true paths of the folders on the way here."""
    with os.scandir(folder) as entries:
        listed = list(entries)
    for entry in listed:
        if _is_wanted(entry.name, ends):
            yield entry.path, _length(entry)
        elif entry.name[0] != "." and _is_folder(entry):
            real = os.path.realpath(entry.path)
            if real not in above:
                yield from _below(entry.path, ends, above | {real})


def _is_wanted(path: str, ends: tuple[str, ...]) -> bool:
    *folders, name = path.split("/")
    hidden = any(folder.startswith(".") for folder in folders)
    return path.lower().endswith(ends) and not hidden and not name.startswith(APPLE_DOUBLE)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself, say.
        return False


def _length(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # Reading it will say why.
        return 0
