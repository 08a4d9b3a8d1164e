"""A web page of a running system: a client of its control socket that browsers of this machine look at."""
