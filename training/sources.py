"""Stage 1: fetch the packages that the pictures come from, check their licences, and record them.

    python training/sources.py fetch       into work/packages, with npm and apt
    python training/sources.py record DIR  ATTRIBUTION.md and licences/ into DIR (models/default)

Only public domain and permissive licences are taken: what the data ask for has to be something that a copied binary can keep.
Pictures under copyleft, attribution-only or non-commercial licences stay out, therefore there are no photographs.
"""

import argparse
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from common import WORK

PACKAGES = WORK / "packages"
NPM = PACKAGES / "node_modules"
CLIPART = PACKAGES / "openclipart" / "usr" / "share"


@dataclass(frozen=True)
class Source:
    """A package, who its content is by, and how its licence is proved."""

    title: str
    holder: str
    licence: str
    used_for: str
    # npm's name and version, or Debian's name.
    package: str
    version: str
    # A file of the package, and a text that stands in it if the licence is what it should be.
    proof: str
    says: str
    # File in licences/, if the licence asks for its text.
    text: str = ""


SOURCES = [
    Source("Fluent Emoji, 3d", "Microsoft Corporation", "MIT", "training pictures", "@lobehub/fluent-emoji-3d", "1.1.0",
           "package.json", '"license": "MIT"', "fluent-emoji-MIT.txt"),
    Source("Fluent Emoji, gradients", "Microsoft Corporation", "MIT", "training pictures", "@iconify-json/fluent-emoji", "1.2.7",
           "info.json", '"spdx": "MIT"', "fluent-emoji-MIT.txt"),
    Source("Fluent Emoji, flat", "Microsoft Corporation", "MIT", "training pictures", "@iconify-json/fluent-emoji-flat", "1.2.6",
           "info.json", '"spdx": "MIT"', "fluent-emoji-MIT.txt"),
    Source("Noto Emoji", "Google Inc.", "Apache-2.0", "training pictures", "@iconify-json/noto", "1.2.9",
           "info.json", '"spdx": "Apache-2.0"', "APACHE-2.0.txt"),
    Source("emojibase", "Miles Johnson", "MIT", "names and keywords in captions", "emojibase-data", "17.0.0",
           "LICENSE", "MIT License", "emojibase-MIT.txt"),
    Source("Open Clip Art Library", "its contributors", "public domain", "training pictures", "openclipart-svg", "",
           "doc/openclipart-svg/copyright", "Public Domain"),
]


def fetch():
    PACKAGES.mkdir(parents=True, exist_ok=True)
    (PACKAGES / "package.json").write_text("{}\n")
    wanted = [f"{source.package}@{source.version}" for source in SOURCES if source.version]
    subprocess.run(["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", *wanted], cwd=PACKAGES, check=True)
    for source in SOURCES:
        if not source.version:
            subprocess.run(["apt-get", "download", source.package], cwd=PACKAGES, check=True)
            file = next(PACKAGES.glob(f"{source.package}_*.deb"))
            subprocess.run(["dpkg-deb", "--extract", file, PACKAGES / "openclipart"], check=True)
    check()


def check():
    """Refuses to go on where a package's own files do not say the licence that is recorded here."""
    for source in SOURCES:
        folder = NPM / source.package if source.version else CLIPART
        if source.version:
            found = json.loads((folder / "package.json").read_text())["version"]
            if found != source.version:
                raise SystemExit(f"{source.package} is {found}, and {source.version} was checked")
        if source.says not in (folder / source.proof).read_text(errors="replace"):
            raise SystemExit(f"{source.package}: {source.proof} does not say {source.says!r}")
        print(f"{source.package}: {source.licence}, as its {source.proof} says")


def record(folder):
    rows = []
    for title, sources in grouped().items():
        source = sources[0]
        licence = f"[{source.licence}](licences/{source.text})" if source.text else source.licence
        if source.text and not (folder / "licences" / source.text).exists():
            raise SystemExit(f"licences/{source.text}, the text of {source.licence}, is missing in {folder}")
        rows.append(f"| {title} | {source.holder} | {licence} | {source.used_for} |")
    packages = ", ".join(f"{source.package} {source.version}".strip() for source in SOURCES)
    (folder / "ATTRIBUTION.md").write_text(
        "# Attribution\n\n"
        "These notices travel with the model, wherever it is copied. `pentimento models licences` prints them from the binary.\n\n"
        "| source | by | licence | used for |\n|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        "The pictures were composed into scenes to train on; none is part of the model's files. The control network and the\n"
        "adapters were trained on the same pictures.\n\n"
        f"Packages: {packages}.\n"
    )


def grouped():
    """The sources by the name of what they are part of."""
    by_title = {}
    for source in SOURCES:
        by_title.setdefault(source.title.split(",")[0], []).append(source)
    return by_title


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("what", choices=["fetch", "check", "record"])
    options.add_argument("folder", nargs="?", type=Path, default=Path("models/default"))
    args = options.parse_args()
    {"fetch": fetch, "check": check, "record": lambda: record(args.folder)}[args.what]()


if __name__ == "__main__":
    main()
