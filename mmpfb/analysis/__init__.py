"""Measuring and reporting; pure Python and torch, no input or output."""

from mmpfb.analysis.summary import IterationTimes, PruningSummary, savings
from mmpfb.analysis.timing import Stopwatch

__all__ = ['IterationTimes', 'PruningSummary', 'Stopwatch', 'savings']
