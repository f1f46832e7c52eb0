"""Data sets for the example configurations: CamVid, and a drawn stand-in that needs no download."""

from mmpfb.datasets.camvid import CamVidDataset
from mmpfb.datasets.street_scenes import StreetScenesDataset

__all__ = ['CamVidDataset', 'StreetScenesDataset']
