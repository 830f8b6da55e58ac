"""Benchmarks: run by hand (`make bench`), never as tests, and reported with the machine they ran on."""
