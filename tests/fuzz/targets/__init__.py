"""Functions that take any bytes, by the part of the code that they attack. `fuzz.table` lists them."""
