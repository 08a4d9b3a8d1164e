"""Emitters of the data path's events: installed while a sink listens, and removed afterwards."""
