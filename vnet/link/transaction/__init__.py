"""The packets of PCI Express's transaction layer (TLPs) as bytes, without I/O; names are imported from the modules."""
