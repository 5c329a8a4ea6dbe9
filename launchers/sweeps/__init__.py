"""Sweeps: many runs that are planned, made, compared and gone on with as one."""
