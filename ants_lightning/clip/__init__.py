"""CLIP: its two towers, texts and their features, and the words that texts are made of."""
