"""A host: its memory, its buses, its platform slots and vhost-user sockets."""
