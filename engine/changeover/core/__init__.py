"""What decides: values, tables and pure synchronous functions. Imports no Trio, no clock, no I/O."""
