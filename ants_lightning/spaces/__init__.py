"""Text spaces, and the folder that keeps them."""
