"""The data link layer of PCI Express: packets that arrive once and in order, or a report; without I/O."""
