"""Claude: a request in, a reply or a classified failure out. The sole importer of `anthropic`."""
