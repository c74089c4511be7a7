"""Joules per bit of named links, from the literature: marginal energy of the device, not of the network.

The radio figures are slopes of power over throughput, so 1 mW/Mbps is 1 nJ/bit. Infrastructure (base
stations, routers) is not in them. Published figures that a source does not give are None, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from calibration_data import UsageError

HEADERS = 1500 / 1448
"""Bytes on the link per byte of payload: TCP/IPv4 with time stamps, 52 B of a 1500 B packet."""

ETHERNET_FRAMING = 1538 / 1448
"""The same with Ethernet's header, checksum, preamble and gap."""

_HUANG = (
    "Huang et al., A Close Examination of Performance and Power Characteristics of 4G LTE Networks, MobiSys "
    "2012; wake_j is the energy of one lone packet, relative_u the error that they state for their model"
)
_NARAYANAN = "Narayanan et al., A Variegated Look at 5G in the Wild, SIGCOMM 2021"


@dataclass(frozen=True, kw_only=True)
class Link:
    """What sending over a link costs the device.

    Attributes:
        name: as given on the command line.
        up_nj_per_bit: marginal energy of a sent bit.
        down_nj_per_bit: marginal energy of a received bit; None if the source does not give it.
        wake_j: energy of waking the link and of its tail, once per round; None if not published.
        kappa: bits on the link per bit of payload.
        relative_u: relative standard uncertainty that the source states; None if it states none.
        year: of the measurement.
        source: where the figures come from.
    """

    name: str
    up_nj_per_bit: float
    down_nj_per_bit: float | None
    wake_j: float | None
    kappa: float
    relative_u: float | None
    year: int
    source: str

    def uplink_j(self, payload_bytes: float) -> float:
        """Marginal joules of sending so many bytes of payload."""
        return 8 * payload_bytes * self.kappa * self.up_nj_per_bit * 1e-9


_TABLE = (
    Link(
        name="lte-2012",
        up_nj_per_bit=438.4,
        down_nj_per_bit=52.0,
        wake_j=12.76,
        kappa=HEADERS,
        relative_u=0.06,
        year=2012,
        source=_HUANG,
    ),
    Link(
        name="3g-2012",
        up_nj_per_bit=869.0,
        down_nj_per_bit=122.0,
        wake_j=7.38,
        kappa=HEADERS,
        relative_u=None,
        year=2012,
        source=_HUANG,
    ),
    Link(
        name="wifi-2012",
        up_nj_per_bit=283.0,
        down_nj_per_bit=137.0,
        wake_j=0.04,
        kappa=HEADERS,
        relative_u=None,
        year=2012,
        source=_HUANG,
    ),
    Link(
        name="4g-2021",
        up_nj_per_bit=80.2,
        down_nj_per_bit=None,
        wake_j=None,
        kappa=HEADERS,
        relative_u=None,
        year=2021,
        source=_NARAYANAN,
    ),
    Link(
        name="5g-lowband-2021",
        up_nj_per_bit=29.2,
        down_nj_per_bit=None,
        wake_j=None,
        kappa=HEADERS,
        relative_u=None,
        year=2021,
        source=_NARAYANAN,
    ),
    Link(
        name="5g-mmwave-2021",
        up_nj_per_bit=9.4,
        down_nj_per_bit=None,
        wake_j=None,
        kappa=HEADERS,
        relative_u=None,
        year=2021,
        source=_NARAYANAN,
    ),
    Link(
        name="ethernet-10g",
        up_nj_per_bit=0.5,
        down_nj_per_bit=0.5,
        wake_j=0.0,
        kappa=ETHERNET_FRAMING,
        relative_u=None,
        year=2010,
        source="assumption: 5 W of a fully used 10 Gb/s adapter; most of it is drawn by an idle link too "
        "(Sohan et al., LCN'10)",
    ),
    Link(
        name="nvlink-c2c",
        up_nj_per_bit=0.0013,
        down_nj_per_bit=0.0013,
        wake_j=0.0,
        kappa=1.0,
        relative_u=None,
        year=2022,
        source="NVIDIA, NVLink-C2C announcement: 1.3 pJ/bit",
    ),
)

LINKS: Mapping[str, Link] = MappingProxyType({link.name: link for link in _TABLE})
"""Every link by name."""


def named_link(name: str) -> Link:
    """The link of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in LINKS:
        raise UsageError(f"{name!r} is no link that is known here.", next_step=f"Links: {', '.join(LINKS)}.")
    return LINKS[name]
