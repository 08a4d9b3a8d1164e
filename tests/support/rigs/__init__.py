"""Rigs: small worlds of hardware, rings, sockets and peers that several test files stand on."""
