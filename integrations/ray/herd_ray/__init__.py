"""Curates a crawl with Herd on a Ray cluster: `herd-ray RECIPE --out FOLDER --address ADDRESS`."""

from .driver import Failed, run

__all__ = ["Failed", "run"]
