"""Label maps of images and videos by the file of a network; what `python -m bench.predict` calls."""
