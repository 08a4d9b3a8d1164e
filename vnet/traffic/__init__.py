"""Traffic from real programs (ping, iperf3, nbdcopy, fio) and rpmsg messages, measured."""
