"""What every room needs: plain settings, inert text, exact buffers, files, the folder of a run."""
