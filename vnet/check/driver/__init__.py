"""`vnet check driver`: a back end of the checker's own that watches a foreign driver."""
