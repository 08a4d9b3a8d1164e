"""A ring as a picture: its tables, its indices, and its chains as arrows."""
