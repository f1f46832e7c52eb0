"""What the data sets over the drawn street scenes have in common: the drawing on first use."""

from mmengine.logging import print_log

from mmpfb.datasets.street_scenes.files import StreetScenesParameters, prepare_street_scenes


class DrawnOnFirstUse:
    """Takes the parameters of the set and draws it before the list of images is made.

    Args:
        data_root: Folder of the set; absent or empty before the first use. Required.
        num_train: Number of training images. Defaults to 240.
        num_val: Number of validation images. Defaults to 60.
        size: Width and height of the images in pixels. Defaults to ``(160, 160)``.
        seed: Seed of the drawing. Defaults to 0.
        **kwargs: Passed to the data set this is mixed into.

    Raises:
        ValueError: If an argument is out of its range, or if ``data_root`` holds other files or
            a set drawn with other parameters. With ``lazy_init=True`` the latter is raised by
            ``full_init()``.
    """

    def __init__(
        self,
        data_root: str | None = None,
        num_train: int = 240,
        num_val: int = 60,
        size: tuple[int, int] = (160, 160),
        seed: int = 0,
        **kwargs,
    ) -> None:
        if not data_root:
            raise ValueError(
                f'Expected argument `data_root` to be the path of a folder, but got {data_root!r}.'
            )
        self._parameters = StreetScenesParameters(num_train, num_val, size, seed)
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Draw the set if it is not there yet, then list its images.

        Raises:
            ValueError: If ``data_root`` holds something else.
        """
        if prepare_street_scenes(self.data_root, self._parameters):
            number = self._parameters.num_train + self._parameters.num_val
            print_log(f'Drew {number} street scenes to {self.data_root}.', logger='current')
        return super().load_data_list()
