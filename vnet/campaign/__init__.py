"""Campaigns: the trials of many seeds in processes of their own, on this machine or on a Ray cluster."""
