"""LightningDataModules: routes mixed by weight, or scenes, in one order that any resume keeps."""

from datamodules.refocus import RefocusDataModule
from datamodules.scenes import SceneDataModule

__all__ = ["RefocusDataModule", "SceneDataModule"]
