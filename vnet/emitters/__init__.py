"""Emitters of the data path's events: installed while a sink listens, and gone without a trace afterwards."""
