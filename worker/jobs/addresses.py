"""Which addresses are on the public internet: everything else is somebody's inside.

The IANA special-purpose registries as of 2025, spelled out: what the standard library calls
global differs between its versions. It resolves nothing; `outbound` does.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SPECIAL_IPV4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade translation
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, with the clouds' metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # automatic multicast tunnels
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Outside it lie loopback, private, link-local and multicast, and every form that carries an IPv4
# address: mapped, compatible, translated.
UNICAST_IPV6 = IPv6Network("2000::/3")
SPECIAL_IPV6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, with Teredo's tunnels
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries an IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)


def is_public(address: Address) -> bool:
    """Whether the address is ordinary unicast of the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in SPECIAL_IPV4)
    return address in UNICAST_IPV6 and not any(address in network for network in SPECIAL_IPV6)


def is_within(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks holds the address, in exactly the form it was written in."""
    return any(address.version == network.version and address in network for network in networks)


def read_address(text: str) -> Address:
    """A numeric address as the resolver writes it, whose zone is dropped. raises ValueError"""
    return ip_address(text.partition("%")[0])


def read_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks such as 10.0.0.0/8 or fd00::/8. raises ValueError"""
    return tuple(ip_network(text) for text in texts)
