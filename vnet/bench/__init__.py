"""The benchmark: this stack beside a bare forwarder and a veth pair, interleaved in one run."""
