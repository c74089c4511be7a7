"""Networks by name, and ``module:factory`` for any other."""

from cwmp.networks.by_name import NETWORK_NAMES, build_network, load_network, sample_shape_of

__all__ = ["NETWORK_NAMES", "build_network", "load_network", "sample_shape_of"]
