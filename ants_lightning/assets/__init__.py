"""Word lists that the package carries."""
