"""LightningDataModules: routes mixed by weight, in one global order that any resume continues."""

from datamodules.refocus import RefocusDataModule

__all__ = ["RefocusDataModule"]
