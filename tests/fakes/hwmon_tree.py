"""Hwmon trees of named boards in a folder."""

from __future__ import annotations

from pathlib import Path


class HwmonTree:
    """A tree under construction: chips by number, each a folder of small files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def add_chip(self, number: int, name: str, **files: object) -> Path:
        folder = self.root / f"hwmon{number}"
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n")
        for file, content in files.items():
            (folder / file).write_text(f"{content}\n")
        return folder

    def write(self, number: int, file: str, content: object) -> None:
        (self.root / f"hwmon{number}" / file).write_text(f"{content}\n")


def jetson(root: Path) -> HwmonTree:
    """One INA3221 with three rails: volts times amperes are 5 W, 1.2 W and 0.8 W; shunts beside them."""
    tree = HwmonTree(root)
    tree.add_chip(0, "thermal_fan_est", temp1_input=41000)
    tree.add_chip(
        3,
        "ina3221",
        in1_label="VDD_IN",
        in1_input=5000,
        curr1_input=1000,
        in2_label="VDD_CPU_GPU_CV",
        in2_input=4000,
        curr2_input=300,
        in3_label="VDD_SOC",
        in3_input=4000,
        curr3_input=200,
        in4_input=5,
        in7_label="sum of shunt voltages",
        in7_input=8,
        curr4_input=1500,
    )
    return tree


def workstation(root: Path) -> HwmonTree:
    """A graphics card with power, another with an energy counter, a meter that averages, and RAPL again."""
    tree = HwmonTree(root)
    tree.add_chip(1, "amdgpu", power1_average=40_000_000, power1_input=43_000_000, power1_label="PPT")
    tree.add_chip(2, "xe", energy1_input=5_000_000, energy1_label="card", energy2_input=3_000_000)
    tree.add_chip(10, "power_meter", power1_average=180_000_000, power1_average_interval=1000)
    tree.add_chip(11, "amd_energy", energy1_input=77, energy1_label="Esocket0")
    return tree
