"""Joules in, records out: the only package that touches sensors or runs microbenchmarks."""

from calibration_data import WindowReading, Work
from profiler.meter import EnergyMeter, Window

__all__ = ["EnergyMeter", "Window", "WindowReading", "Work"]
