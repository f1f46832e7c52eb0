"""Convert the raw CamVid release to the layout of ``mmpfb.CamVidDataset``.

The raw release holds 701 frames in ``701_StillsRaw_full/*.png`` and their labels, in 32 colours,
in ``LabeledApproved_full/*_L.png``. The result holds JPEG images and PNG labels with the usual 11
classes, in ``images/<split>`` and ``annotations/<split>`` with the splits train, val and test.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

VOID = 255
SPLITS = ('train', 'val', 'test')

# (name, red, green, blue) of the release, in the order of the classes of `mmpfb.CamVidDataset`.
_GROUPS = (
    (('Sky', 128, 128, 128),),
    (
        ('Building', 128, 0, 0),
        ('Wall', 64, 192, 0),
        ('Bridge', 0, 128, 64),
        ('Tunnel', 64, 0, 64),
        ('Archway', 192, 0, 128),
    ),
    (('Column_Pole', 192, 192, 128), ('TrafficCone', 0, 0, 64)),
    (('Road', 128, 64, 128), ('LaneMkgsDriv', 128, 0, 192), ('LaneMkgsNonDriv', 192, 0, 64)),
    (('Sidewalk', 0, 0, 192), ('ParkingBlock', 64, 192, 128), ('RoadShoulder', 128, 128, 192)),
    (('Tree', 128, 128, 0), ('VegetationMisc', 192, 192, 0)),
    (('SignSymbol', 192, 128, 128), ('Misc_Text', 128, 128, 64), ('TrafficLight', 0, 64, 64)),
    (('Fence', 64, 64, 128),),
    (
        ('Car', 64, 0, 128),
        ('SUVPickupTruck', 64, 128, 192),
        ('Truck_Bus', 192, 128, 192),
        ('Train', 192, 64, 128),
        ('OtherMoving', 128, 64, 64),
    ),
    (
        ('Pedestrian', 64, 64, 0),
        ('Child', 192, 128, 64),
        ('CartLuggagePram', 64, 0, 192),
        ('Animal', 64, 128, 64),
    ),
    (('Bicyclist', 0, 128, 192), ('MotorcycleScooter', 192, 0, 192)),
)
_VOID_COLOUR = (0, 0, 0)

COLOURS = {
    (red, green, blue): label
    for label, group in enumerate(_GROUPS)
    for _, red, green, blue in group
}
CLASS_OF_NAME = {name: label for label, group in enumerate(_GROUPS) for name, *_ in group}


def split_of(name: str) -> str | None:
    """Split of a frame in the usual division into 367, 101 and 233 frames.

    * val: the part of sequence 0016E5 that was labelled at 15 Hz, frames 7959 to 8159;
    * train: the rest of 0016E5, all of 0006R0, and 0001TP up to frame 8520;
    * test: the rest of 0001TP, and all of Seq05VD.

    Args:
        name: Name of the frame without suffix, e.g. ``'0016E5_07959'``.

    Returns:
        The split; None if the name is not of the release.
    """
    sequence, _, frame = name.partition('_')
    digits = frame[1:] if frame.startswith('f') else frame
    if not digits.isdecimal():
        return None
    number = int(digits)
    if sequence == '0016E5':
        return 'val' if 7959 <= number <= 8159 else 'train'
    if sequence == '0001TP':
        return 'train' if number <= 8520 else 'test'
    return {'0006R0': 'train', 'Seq05VD': 'test'}.get(sequence)


def read_split_lists(folder: Path) -> dict[str, str]:
    """Read ``train.txt``, ``val.txt`` and ``test.txt``, one frame name a line.

    Args:
        folder: Folder of the files; a split whose file is absent is left out.

    Returns:
        Split of each frame name.

    Raises:
        FileNotFoundError: If none of the files exists.
        ValueError: If a name stands in two places.
    """
    split_of_name: dict[str, str] = {}
    paths = {split: folder / f'{split}.txt' for split in SPLITS}
    if not any(path.is_file() for path in paths.values()):
        raise FileNotFoundError(
            f'Expected argument `--split-dir` to hold train.txt, val.txt or test.txt, '
            f'but {str(folder)!r} holds none of them.'
        )
    for split, path in paths.items():
        if not path.is_file():
            continue
        for line in path.read_text(encoding='utf-8').split():
            name = line.rsplit('/', maxsplit=1)[-1].removesuffix('.png')
            if name in split_of_name:
                raise ValueError(
                    f'Expected every frame once in the lists of {str(folder)!r}, '
                    f'but {name!r} stands in {split_of_name[name]} and in {split}.'
                )
            split_of_name[name] = split
    return split_of_name


def read_colours(path: Path) -> dict[tuple[int, int, int], int]:
    """Read ``label_colors.txt`` of the release: red, green, blue and a class name a line.

    Args:
        path: The file.

    Returns:
        Class id of each colour, without the colour of Void.

    Raises:
        ValueError: If a line cannot be read or names an unknown class.
    """
    colours: dict[tuple[int, int, int], int] = {}
    for line in path.read_text(encoding='utf-8').splitlines():
        if not line.strip():
            continue
        fields = line.split()
        valid = len(fields) == 4 and all(field.isdecimal() for field in fields[:3])
        if not valid or (fields[3] != 'Void' and fields[3] not in CLASS_OF_NAME):
            raise ValueError(
                f'Expected every line of {str(path)!r} to be "red green blue class" with a class '
                f'of the release, but got {line!r}.'
            )
        if fields[3] != 'Void':
            red, green, blue = (int(field) for field in fields[:3])
            colours[red, green, blue] = CLASS_OF_NAME[fields[3]]
    return colours


def labels_from_colours(
    colour_image: np.ndarray, colours: dict[tuple[int, int, int], int]
) -> tuple[np.ndarray, int]:
    """Translate a colour image to class ids.

    Args:
        colour_image: RGB of shape ``(H, W, 3)``, uint8.
        colours: Class id of each colour.

    Returns:
        Labels of shape ``(H, W)``, uint8, void where the colour is of no class; and the number of
        pixels whose colour is neither of a class nor that of Void.
    """
    channels = colour_image.astype(np.uint32)
    codes = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
    present, inverse = np.unique(codes, return_inverse=True)
    table = np.full(len(present), VOID, dtype=np.uint8)
    known = np.zeros(len(present), dtype=bool)
    for place, code in enumerate(present.tolist()):
        colour = (code >> 16, code >> 8 & 255, code & 255)
        known[place] = colour in colours or colour == _VOID_COLOUR
        table[place] = colours.get(colour, VOID)
    # NumPy 2.0 alone returns the inverse with the shape of its input.
    inverse = inverse.reshape(codes.shape)
    return table[inverse], int((~known[inverse]).sum())


def convert(
    raw: Path,
    out: Path,
    split_dir: Path | None = None,
    size: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, int], int]:
    """Convert the whole release.

    Args:
        raw: Folder of ``701_StillsRaw_full`` and ``LabeledApproved_full``.
        out: Folder of the result.
        split_dir: Folder of lists that override the usual division.
        size: Width and height to resize to; None keeps the size.
        progress: Called with the number of frames done and of all frames after each frame.

    Returns:
        Number of frames in each split, and of pixels whose colour is of no class.

    Raises:
        FileNotFoundError: If a folder, the frames, a listed frame or a label image is missing.
        ValueError: If a frame is of no split or an image cannot be read or has another size than
            its label image.
    """
    images, annotations = raw / '701_StillsRaw_full', raw / 'LabeledApproved_full'
    for folder in (images, annotations):
        if not folder.is_dir():
            raise FileNotFoundError(
                f'The folder {str(folder)!r} does not exist. Expected the raw CamVid release with '
                f'701_StillsRaw_full/*.png and LabeledApproved_full/*_L.png in {str(raw)!r}.'
            )
    frames = {path.stem: path for path in sorted(images.glob('*.png'))}
    if not frames:
        raise FileNotFoundError(f'The folder {str(images)!r} holds no *.png.')
    splits = _assign_splits(frames, split_dir)
    label_paths = {name: annotations / f'{name}_L.png' for name in splits}
    missing = [str(path) for path in label_paths.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} label images are missing, the first is {missing[0]!r}.'
        )
    colour_file = raw / 'label_colors.txt'
    colours = read_colours(colour_file) if colour_file.is_file() else COLOURS

    counts, unknown = dict.fromkeys(SPLITS, 0), 0
    for done, (name, split) in enumerate(splits.items(), start=1):
        image, colour_image = _read(frames[name]), _read(label_paths[name])
        if image.shape != colour_image.shape:
            raise ValueError(
                f'Expected {frames[name].name} and its label image to have one size, '
                f'but got {image.shape[1::-1]} and {colour_image.shape[1::-1]}.'
            )
        labels, unknown_here = labels_from_colours(colour_image, colours)
        unknown += unknown_here
        if size is not None:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        _write(out, split, name, image, labels)
        counts[split] += 1
        if progress is not None:
            progress(done, len(splits))
    return counts, unknown


def _assign_splits(frames: dict[str, Path], split_dir: Path | None) -> dict[str, str]:
    if split_dir is not None:
        splits = read_split_lists(split_dir)
        absent = [name for name in splits if name not in frames]
        if absent:
            raise FileNotFoundError(
                f'{len(absent)} frames of the lists are not in 701_StillsRaw_full, '
                f'the first is {absent[0]!r}.'
            )
        return splits
    splits = {}
    for name in frames:
        split = split_of(name)
        if split is None:
            raise ValueError(
                f'Expected the frames 0001TP_*, 0006R0_*, 0016E5_* and Seq05VD_*, '
                f'but got {name!r}. Use --split-dir for frames with other names.'
            )
        splits[name] = split
    return splits


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'Expected {str(path)!r} to be an image, but it cannot be read.')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _write(out: Path, split: str, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    image_path = out / 'images' / split / f'{name}.jpg'
    label_path = out / 'annotations' / split / f'{name}.png'
    image_path.parent.mkdir(parents=True, exist_ok=True)
    label_path.parent.mkdir(parents=True, exist_ok=True)
    # Full colour resolution: halved chroma would smear poles and signs.
    Image.fromarray(image).save(image_path, quality=95, subsampling=0)
    Image.fromarray(labels).save(label_path)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Convert the raw CamVid release to the layout of mmpfb.CamVidDataset.',
        allow_abbrev=False,
    )
    parser.add_argument(
        'raw', type=Path, help='folder of 701_StillsRaw_full and LabeledApproved_full'
    )
    parser.add_argument('out', type=Path, help='folder of the result, e.g. data/camvid')
    parser.add_argument(
        '--split-dir',
        type=Path,
        help='folder of train.txt, val.txt and test.txt with one frame name a line; '
        'without it the usual 367/101/233 division',
    )
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('W', 'H'), help='resize, e.g. to 480 360'
    )
    options = parser.parse_args(arguments)
    if options.size is not None and min(options.size) < 1:
        parser.error(f'Expected argument `--size` to be two positive numbers, got {options.size}.')
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert; returns the exit status."""
    options = parse_args(arguments)
    size = tuple(options.size) if options.size is not None else None

    def show_progress(done: int, total: int) -> None:
        print(f'\r{done}/{total} frames', end='\n' if done == total else '', flush=True)

    try:
        counts, unknown = convert(options.raw, options.out, options.split_dir, size, show_progress)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(', '.join(f'{split}: {number}' for split, number in counts.items()))
    if unknown:
        print(f'{unknown} pixels have a colour of no class and became void.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
