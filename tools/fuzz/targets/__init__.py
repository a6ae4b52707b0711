"""One module per target; each lists its `DECODERS`, and `seeds()` makes valid inputs for them."""
