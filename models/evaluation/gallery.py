"""What subjects and backgrounds look like, learned from rendered clips only.

Linear discriminants (Fisher 1936, with shrinkage as in Friedman 1989) on descriptions of subject
crops; on background statistics the same, then the nearest examples under its map. The renders use
other seeds, textures, places and sizes than those that are measured. Fitted once and cached outside
the repository under a hash of everything it depends on.
"""

import ast
import hashlib
import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from models.evaluation import checker as checker_code
from models.evaluation import features as features_code
from models.evaluation import masks as masks_code
from models.evaluation.checker import Views, look
from models.evaluation.features import EfficientNetLite, description, load_features
from models.evaluation.masks import SubjectFinder, softened, train_finder
from models.evaluation.truth import decoded
from models.training import scenes as scenes_code
from models.training import world as world_code
from models.training.assets import cache_dir
from models.training.concepts import TRAINED
from models.training.scenes import SCENES, paint_bank
from models.training.sprites import SpriteSheet, sheet_dir
from models.training.world import CLIP_SECONDS, World, WorldConfig
from models.videoldm.autoencoder import Autoencoder

SCENE_NAMES = tuple(scene.name for scene in SCENES)


@dataclass(frozen=True)
class GalleryConfig:
    """How much is rendered to learn from."""

    concepts: tuple[str, ...]
    clips: int = 16  # per concept; 4 or more
    frames: int = 6  # per clip; CROPS or more
    finder_steps: int = 700
    shrinkage: float = 0.1  # of the within-class covariance towards a sphere, 0..1
    scene_shrinkage: float = 1e-3
    bank_seed: int = 1  # of the background textures; those of training have 0


@dataclass(frozen=True)
class Discriminant:
    """A linear map under which classes are spheres, and where they lie."""

    origin: Tensor  # (d,)
    axes: Tensor  # (d, k)
    means: Tensor  # (classes, k)

    def similarities(self, x: Tensor) -> Tensor:
        """Cosine to every class: (n, d) -> (n, classes), in -1..1."""
        placed = functional.normalize((x - self.origin) @ self.axes, dim=1)
        return placed @ functional.normalize(self.means, dim=1).T


def fit(x: Tensor, labels: Tensor, classes: int, shrinkage: float) -> Discriminant:
    """The discriminant of labelled vectors.

    x       (n, d); labels (n,) in 0..classes - 1
    raises  ValueError if a class has no vector
    """
    counts = torch.bincount(labels, minlength=classes)
    if int(counts.min()) == 0:
        raise ValueError(f"class {int(counts.argmin())} has no examples")
    means = torch.zeros(classes, x.shape[1]).index_add_(0, labels, x) / counts[:, None]
    within = (x - means[labels]).T @ (x - means[labels]) / len(x)
    sphere = within.diagonal().mean() * torch.eye(x.shape[1])
    factor = torch.linalg.cholesky((1 - shrinkage) * within + shrinkage * sphere)
    origin = means.mean(0)
    white = torch.linalg.solve_triangular(factor, (means - origin).T, upper=False)
    basis, strength, _ = torch.linalg.svd(white, full_matrices=False)
    kept = basis[:, strength / strength[0] > 1e-4]  # the span of the class means
    axes = torch.linalg.solve_triangular(factor.T, kept, upper=True)
    return Discriminant(origin, axes, (means - origin) @ axes)


@dataclass(frozen=True)
class Neighbours:
    """Examples under a discriminant's map; for classes with many looks, such as photographs."""

    origin: Tensor  # (d,)
    axes: Tensor  # (d, k)
    placed: Tensor  # (n, k)
    labels: Tensor  # (n,)

    def vote(self, x: Tensor, voters: int = 5) -> Tensor:
        """Most frequent class among the nearest examples: (m, d) -> (m,)."""
        far = torch.cdist((x - self.origin) @ self.axes, self.placed)
        return self.labels[far.topk(voters, largest=False).indices].mode(1).values


@dataclass(frozen=True)
class Gallery:
    """Everything that recognises: finder, features, and both discriminants."""

    concepts: tuple[str, ...]
    finder: SubjectFinder
    network: EfficientNetLite
    subjects: Discriminant
    scenes: Neighbours

    def recognise(self, views: Views) -> Tensor:
        """Similarity of the subject to every concept, mean over the crops: (concepts,)."""
        return self.subjects.similarities(description(self.network, views.crops)).mean(0)

    def scene(self, views: Views) -> str:
        """The background's name."""
        return SCENE_NAMES[int(self.scenes.vote(views.backdrop[None])[0])]


def open_gallery(
    sheet: SpriteSheet, config: GalleryConfig, autoencoder: Autoencoder | None = None
) -> Gallery:
    """The gallery, learned on first use (minutes of a core) and read from the cache after.

    autoencoder  of the model to be measured: half the examples go through it, for a decoder's
                 smear must not pass for a trait of the subject
    """
    finder = open_finder(sheet, config)
    path = gallery_path(config, autoencoder)
    if not path.exists():
        found = examples(sheet, config, finder, autoencoder)
        subjects, scenes = learn(found, config)
        tensors = _prefixed("subjects", vars(subjects)) | _prefixed("scenes", vars(scenes))
        _store(tensors, path)
    tensors = load_file(path)
    return Gallery(
        config.concepts,
        finder,
        load_features(),
        Discriminant(**_part(tensors, "subjects")),
        Neighbours(**_part(tensors, "scenes")),
    )


def open_finder(sheet: SpriteSheet, config: GalleryConfig) -> SubjectFinder:
    """The subject finder, taught on first use and read from the cache after."""
    path = finder_path(config)
    if not path.exists():
        world = other_world(sheet, config.bank_seed)
        _store(train_finder(world, config.finder_steps, "finder").state_dict(), path)
    finder = SubjectFinder()
    finder.load_state_dict(load_file(path))
    return finder.eval().requires_grad_(False)


def finder_path(config: GalleryConfig) -> Path:
    """Where the finder is cached: the name hashes all that shapes it."""
    numbers = (config.finder_steps, config.bank_seed)
    return _path("finder", numbers, world_code, scenes_code, masks_code, other_world)


def gallery_path(config: GalleryConfig, autoencoder: Autoencoder | None = None) -> Path:
    """Where the discriminants are cached: the name hashes all that shapes them."""
    code = (world_code, scenes_code, masks_code, features_code, checker_code)
    numbers = (config, _digest(autoencoder))
    return _path("gallery", numbers, *code, other_world, examples, learn, _drawn, _viewed, fit)


@dataclass(frozen=True)
class Examples:
    """Rendered clips as the checker saw them, with their truth."""

    vectors: Tensor  # (m, d) descriptions of crops
    subjects: Tensor  # (m,) index of the concept
    backdrops: Tensor  # (n, d) statistics of backgrounds
    scenes: Tensor  # (n,) index of the scene


def examples(
    sheet: SpriteSheet,
    config: GalleryConfig,
    finder: SubjectFinder,
    autoencoder: Autoencoder | None,
) -> Examples:
    """Random clips of every concept: a quarter sharp, a quarter softened, half decoded."""
    world = other_world(sheet, config.bank_seed)
    network = load_features()
    vectors, subjects, backdrops, scenes = [], [], [], []
    draw = random.Random("gallery")
    for index, concept in enumerate(config.concepts):
        clips, names = _drawn(world, concept, config, draw)
        for views in _viewed(clips, finder, config, autoencoder):
            vectors.append(description(network, views.crops))
            subjects += [index] * len(views.crops)
            backdrops.append(views.backdrop)
        scenes += [SCENE_NAMES.index(name) for name in names]
    return Examples(
        torch.cat(vectors), torch.tensor(subjects), torch.stack(backdrops), torch.tensor(scenes)
    )


def learn(found: Examples, config: GalleryConfig) -> tuple[Discriminant, Neighbours]:
    """What tells subjects apart, and what tells scenes apart."""
    subjects = fit(found.vectors, found.subjects, len(config.concepts), config.shrinkage)
    space = fit(found.backdrops, found.scenes, len(SCENE_NAMES), config.scene_shrinkage)
    placed = (found.backdrops - space.origin) @ space.axes
    return subjects, Neighbours(space.origin, space.axes, placed, found.scenes)


def other_world(sheet: SpriteSheet, bank_seed: int) -> World:
    """The world of moving and standing subjects in every style, over textures of another seed."""
    shares = WorldConfig(TRAINED, direction_share=0.8, still_share=0.2, animated_share=0.5)
    world = World(sheet, shares)
    world.bank = paint_bank(bank_seed)
    return world


def _drawn(
    world: World, concept: str, config: GalleryConfig, draw: random.Random
) -> tuple[Tensor, list[str]]:
    """Random clips of a concept, (clips, 3, frames, 64, 64) in 0..1, and their scenes."""
    scripts = [replace(world.script(draw), concept=concept) for _ in range(config.clips)]
    states = [world.sample(draw, script) for script in scripts]
    times = torch.linspace(0.05, CLIP_SECONDS - 0.05, config.frames).expand(len(states), -1)
    clips = world.render(states, times) * 0.5 + 0.5
    clips[1::4] = softened(clips[1::4], draw)
    return clips, [state.scene for state in states]


def _viewed(
    clips: Tensor, finder: SubjectFinder, config: GalleryConfig, autoencoder: Autoencoder | None
) -> Iterator[Views]:
    """Clips as the checker sees them, every other one decoded first."""
    if autoencoder is not None:
        clips[::2] = decoded(autoencoder, clips[::2])
    fps = (config.frames - 1) / (CLIP_SECONDS - 0.1)
    for clip in clips:
        yield look(finder, clip, fps)


def _digest(autoencoder: Autoencoder | None) -> str:
    """Hash of its weights, in name order."""
    total = hashlib.sha256()
    if autoencoder is not None:
        for name, value in sorted(autoencoder.state_dict().items()):
            total.update(name.encode() + value.float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _path(kind: str, numbers: object, *code: ModuleType | Callable[..., object]) -> Path:
    """A cache file named by a hash of numbers, the code's meaning, and the cut-outs' index."""
    total = hashlib.sha256(repr(numbers).encode())
    for part in code:
        total.update(ast.dump(ast.parse(inspect.getsource(part))).encode())  # blind to comments
    total.update((sheet_dir() / "index.json").read_bytes())
    return cache_dir() / "evaluation" / f"{kind}-{total.hexdigest()[:16]}.safetensors"


def _store(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
    partial.rename(path)


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    mine = (name for name in tensors if name.startswith(f"{prefix}."))
    return {name.removeprefix(f"{prefix}."): tensors[name] for name in mine}
