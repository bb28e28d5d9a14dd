"""Models: loading, the packed attention, heads, adapters, and the proof that packing is exact for each of them."""
