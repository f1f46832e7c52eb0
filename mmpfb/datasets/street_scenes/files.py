"""A drawn set of street scenes on disk: complete or absent, never in between."""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmpfb.datasets.street_scenes.drawing import check_size, condition_of, draw_scene

PARAMETERS_FILE = 'street_scenes.json'
CONDITIONS_FILE = 'conditions.json'

# To be raised when the same parameters give other pictures, so that old folders are noticed.
_DRAWING_VERSION = 1
_SPLITS = ('train', 'val')


@dataclass(frozen=True)
class StreetScenesParameters:
    """What a set is drawn from; equal parameters give equal files.

    Args:
        num_train: Number of training images, at least 1. Defaults to 240.
        num_val: Number of validation images, at least 1. Defaults to 60.
        size: Width and height in pixels, each at least 32. Defaults to ``(160, 160)``.
        seed: Non-negative seed of the drawing. Defaults to 0.

    Raises:
        ValueError: If a value is out of its range.
    """

    num_train: int = 240
    num_val: int = 60
    size: tuple[int, int] = (160, 160)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (('num_train', 1), ('num_val', 1), ('seed', 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f'Expected argument `{name}` to be an integer of at least {least}, '
                    f'but got {value!r}.'
                )
        check_size(self.size)
        # A configuration file may hold a list, which must compare equal to the same tuple.
        object.__setattr__(self, 'size', (int(self.size[0]), int(self.size[1])))

    def record(self) -> dict:
        """The parameters as they stand in ``street_scenes.json``."""
        return {**asdict(self), 'size': list(self.size), 'drawing_version': _DRAWING_VERSION}


def draw_indexed_scene(
    split: str, index: int, size: tuple[int, int] = (160, 160), seed: int = 0
) -> tuple[np.ndarray, np.ndarray, str]:
    """Draw one scene of a set; it depends on the arguments alone.

    Args:
        split: ``'train'`` or ``'val'``.
        index: Place in the split.
        size: Width and height in pixels.
        seed: Seed of the set.

    Returns:
        Image of shape ``(H, W, 3)``, labels of shape ``(H, W)``, and the name of the condition.

    Raises:
        ValueError: If the split is unknown.
    """
    if split not in _SPLITS:
        raise ValueError(f'Expected argument `split` to be one of {_SPLITS}, but got {split!r}.')
    stream = [seed, _SPLITS.index(split)]
    condition = condition_of(float(np.random.default_rng(stream).random()), index)
    image, labels = draw_scene(np.random.default_rng([*stream, index]), size, condition)
    return image, labels, condition


def prepare_street_scenes(
    data_root: str | os.PathLike,
    parameters: StreetScenesParameters | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Make sure that a folder holds the set, drawing it if the folder is absent or empty.

    The set is drawn into a hidden folder beside ``data_root`` and renamed when it is complete.
    Processes that start together each draw their own; the first to finish wins and the others
    remove theirs.

    Args:
        data_root: Folder of the set.
        parameters: What to draw; None for the defaults.
        progress: Called with the number of images drawn and of all images after each image.

    Returns:
        True if this call drew the set, False if it was there.

    Raises:
        ValueError: If the folder holds something else, a set drawn with other parameters, or a
            set that lost files.
    """
    parameters = parameters or StreetScenesParameters()
    root = Path(os.path.realpath(data_root))
    if _is_drawn(root, parameters):
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    # Not the `tempfile` module: its folders are closed to other users, also after renaming.
    unfinished = root.parent / f'.{root.name}.{uuid.uuid4().hex}.unfinished'
    try:
        _draw_all(unfinished, parameters, progress)
        try:
            # Replaces an empty folder and fails on any other, in one step.
            os.rename(unfinished, root)
        except OSError:
            if not _is_drawn(root, parameters):
                raise
            return False
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _is_drawn(root: Path, parameters: StreetScenesParameters) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    record_path = root / PARAMETERS_FILE
    advice = 'Choose another `data_root`, or delete that folder to have it drawn again.'
    if not record_path.is_file():
        raise ValueError(
            f'Expected argument `data_root` to be absent, empty or a set of street scenes, but '
            f'{str(root)!r} holds other files and no {PARAMETERS_FILE}. {advice}'
        )
    try:
        found = json.loads(record_path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{str(record_path)!r} is not valid JSON: {error}. {advice}') from error
    if found != parameters.record():
        raise ValueError(
            f'The street scenes in {str(root)!r} were drawn with {found}, '
            f'but {parameters.record()} was asked for. {advice}'
        )
    for split, number in zip(_SPLITS, (parameters.num_train, parameters.num_val), strict=True):
        for folder, suffix in (('images', '.jpg'), ('annotations', '.png')):
            files = len(list((root / folder / split).glob(f'*{suffix}')))
            if files != number:
                raise ValueError(
                    f'Expected {number} files *{suffix} in {str(root / folder / split)!r}, '
                    f'but found {files}. {advice}'
                )
    return True


def _draw_all(
    folder: Path,
    parameters: StreetScenesParameters,
    progress: Callable[[int, int], None] | None,
) -> None:
    conditions, drawn = {}, 0
    total = parameters.num_train + parameters.num_val
    for split, number in zip(_SPLITS, (parameters.num_train, parameters.num_val), strict=True):
        images, annotations = folder / 'images' / split, folder / 'annotations' / split
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for index in range(number):
            image, labels, condition = draw_indexed_scene(
                split, index, parameters.size, parameters.seed
            )
            stem = f'{split}_{index:05d}'
            # Full colour resolution: halved chroma would smear poles and signs.
            Image.fromarray(image).save(images / f'{stem}.jpg', quality=95, subsampling=0)
            _write_labels(annotations / f'{stem}.png', labels)
            conditions[f'{stem}.jpg'] = condition
            drawn += 1
            if progress is not None:
                progress(drawn, total)
    _write_json(folder / CONDITIONS_FILE, conditions)
    _write_json(folder / PARAMETERS_FILE, parameters.record())


def _write_labels(path: Path, labels: np.ndarray) -> None:
    written, data = cv2.imencode('.png', labels)
    if not written:
        raise OSError(f'The labels for {str(path)!r} could not be encoded as PNG.')
    path.write_bytes(data.tobytes())


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')
