"""What `drivers` is given and `vnet` implements: hardware, ports, channels between processes."""
