"""A host: its memory, buses, platform slots and vhost-user sockets."""
