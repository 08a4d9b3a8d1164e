"""What the kernel gives: namespaces, unix sockets, shared memory, eventfds, epoll."""
