"""Where a program meets an rpmsg channel: a socket or a terminal."""
