"""The list of what the image serves with, as CycloneDX: packages, versions, hashes, licences, who needs whom.

It is made from `requirements-serve.lock`, which is all that the image installs beside the project. Licences are
told as far as the packages are installed here. Knows nothing of the base image.
"""

import hashlib
import importlib.metadata
import re
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.markers import Marker

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements-serve.lock"
PROJECT = "hubel"
_IMAGE = {"sys_platform": "linux", "python_version": "3.11", "python_full_version": "3.11.0"}
_ENTRY = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?: ; (?P<marker>[^\\\n]+))?(?P<rest>.*(?:\n .*)*)", re.M)
_VIA = re.compile(r"^ +# +(?:via )?([a-z0-9-]+)", re.M)


@dataclass(frozen=True)
class Pin:
    """A package of the lock.

    Attributes:
        name: its name.
        version: its version.
        marker: where it is installed, as a condition; empty for everywhere.
        hashes: SHA-256 of the files that may be installed.
        parents: who needs it.
    """

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    parents: frozenset[str]

    @property
    def installed(self) -> bool:
        """Whether the image has it."""
        return not self.marker or Marker(self.marker).evaluate(dict(_IMAGE))


def read_lock(text: str) -> Iterator[Pin]:
    """Read a lock that uv has written."""
    for entry in _ENTRY.finditer(text):
        yield Pin(
            entry["name"],
            entry["version"],
            (entry["marker"] or "").strip(),
            tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry["rest"])),
            frozenset(_VIA.findall(entry["rest"])) - {"via"},
        )


def make_bom(text: str) -> Bom:
    """Make the list from the text of a lock; the same lock gives the same serial number."""
    bom = Bom(serial_number=uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4))
    root = Component(
        name=PROJECT, version=importlib.metadata.version(PROJECT), type=ComponentType.APPLICATION, bom_ref=PROJECT
    )
    bom.metadata.component = root
    parts: defaultdict[str, list[Component]] = defaultdict(list, {PROJECT: [root]})
    pins = list(read_lock(text))
    for pin in pins:
        part = _component(pin)
        bom.components.add(part)
        parts[pin.name].append(part)
    for pin in pins:
        for parent in sorted(pin.parents):
            for component in parts[parent]:
                bom.register_dependency(component, [part for part in parts[pin.name] if part.version == pin.version])
    return bom


def _component(pin: Pin) -> Component:
    address = PackageURL("pypi", name=pin.name, version=pin.version)
    licence = _licence(pin)
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        scope=ComponentScope.REQUIRED if pin.installed else ComponentScope.OPTIONAL,
        purl=address,
        bom_ref=str(address),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in pin.hashes],
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
        properties=[Property(name="marker", value=pin.marker)] if pin.marker else [],
    )


def _licence(pin: Pin) -> str:
    """Return what an installed package says of its licence: an SPDX expression, or a few words."""
    try:
        found = importlib.metadata.metadata(pin.name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    if found["Version"] != pin.version:
        return ""
    stated, *_ = [*(found.get_all("License-Expression") or []), *(found.get_all("License") or []), ""]
    kinds = [kind.rpartition(" :: ")[2] for kind in found.get_all("Classifier") or [] if kind.startswith("License ::")]
    return stated.strip() if stated and "\n" not in stated else ", ".join(kinds)


def main() -> None:
    """Write the list to the file that the command line names."""
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(JsonV1Dot6(make_bom(LOCK.read_text())).output_as_string(indent=2) + "\n")


if __name__ == "__main__":
    main()
