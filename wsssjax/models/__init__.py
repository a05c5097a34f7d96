"""Networks only: no loss, no data."""
