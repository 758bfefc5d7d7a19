"""The pager's API: what people on duty read and order, by HTTP and with a token."""
