"""Linux kernel interfaces: namespaces, netlink, unix sockets, shared memory, eventfds, epoll."""
