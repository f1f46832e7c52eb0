"""Slow, obviously right twins of what the package computes, written from the paper."""
