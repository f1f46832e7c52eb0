"""Trains several pruning methods side by side from one configuration."""
